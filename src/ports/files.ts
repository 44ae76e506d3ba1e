/**
 * Small whole files of one directory: identities, hard-state slots.
 *
 * `write` is atomic and durable when it resolves: temporary file, fsync, rename, fsync of the directory. A crash leaves
 * the old content or the new. `overwrite` is not atomic: a crash may leave any mix of sectors, which is why its callers
 * keep two slots with checksums.
 */
export interface Files {
  read(name: string): Promise<Uint8Array | undefined>
  write(name: string, bytes: Uint8Array): Promise<void>
  /** Writes in place and fsyncs (fdatasync) the file. */
  overwrite(name: string, bytes: Uint8Array): Promise<void>
  remove(name: string): Promise<void>
  list(): Promise<string[]>
  /** Bytes that may still be written to the filesystem of this directory. */
  freeBytes(): Promise<number>
}
