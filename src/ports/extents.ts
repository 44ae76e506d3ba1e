/**
 * Extent files of one disk: fixed-size preallocated files that the log is written into.
 *
 * Promises: after `sync` resolves, every write that had resolved before it was called is on disk. A `sync` that fails
 * means that those writes must be taken as lost, and the disk is finished: it is never called again.
 * Does not promise: any order or atomicity of unsynced writes, at any granularity above one sector.
 * Writes through the direct path need offset, length and memory aligned to `alignment`; the arena gives such memory.
 */
export interface ExtentFile {
  readonly number: number
  /** Preallocated size in bytes. */
  readonly size: number
  /** True when each write is on disk as it resolves, as if a sync had followed: for files opened as `durable`. */
  readonly durable?: boolean
  /** Writes `bytes` (aligned, whole sectors) at `offset`. NO_SPACE when the filesystem is full; else the disk is bad. */
  write(bytes: Uint8Array, offset: number): Promise<void>
  /** Like `write` of the pieces one after another, in one go where the system can: aligned pieces, whole sectors each. */
  writeAll?(pieces: readonly Uint8Array[], offset: number): Promise<void>
  /** fdatasync. */
  sync(): Promise<void>
  /** Fills `into` from `offset`; resolves to the bytes read, fewer at the end of the file. */
  read(into: Uint8Array, offset: number): Promise<number>
  /** Like `read`, past the page cache; `into` from `arena`, whole sectors. Absent where nothing is cached or it cannot. */
  readDirect?(into: Uint8Array, offset: number): Promise<number>
  close(): Promise<void>
}

export interface ExtentFiles {
  /** Sector size that writes are aligned to, 4096. */
  readonly alignment: number
  /** How writes go to disk, for the log line at start and for benches. */
  readonly mode: 'direct' | 'buffered'
  list(): Promise<number[]>
  /** Size in bytes of a file of the list, without opening it; undefined when there is none. */
  sizeOf(number: number): Promise<number | undefined>
  /** Creates and preallocates; durable (directory included) when it resolves. NO_SPACE when the filesystem is full. */
  create(number: number, size: number): Promise<ExtentFile>
  /** `durable` asks for writes that need no `sync`, where the system does both at once (O_DSYNC); see `ExtentFile.durable`. */
  open(number: number, durable?: boolean): Promise<ExtentFile>
  /** A file of one sector beside the extents, made when missing: what a probe of the disk writes. Absent where it cannot be. */
  openProbe?(): Promise<ExtentFile>
  /** Gives an old extent file a new number without giving its blocks back: the same space, written again. */
  rename(from: number, to: number): Promise<void>
  remove(number: number): Promise<void>
  /** Memory that the direct path can write from: page-aligned, `size` bytes. */
  arena(size: number): Uint8Array
  /** Bytes that we may still use, and those with what is used by anybody: `total - free` is what is used. */
  space(): Promise<{ free: number; total: number }>
}
