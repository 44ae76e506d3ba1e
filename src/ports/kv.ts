/**
 * An ordered key-value store: LevelDB in production, memory with faults in the simulator.
 *
 * Promises: a batch is atomic. With `sync` it is on disk when the promise resolves.
 * Does not promise: that unsynced batches survive a crash as a prefix (a random subset of them may), nor any order
 * between two batches in flight at once. A write that fails may or may not be there: the owner must stop using the store.
 * Values read are the caller's own copies.
 */

export type KvOperation =
  | { readonly type: 'put'; readonly key: Uint8Array; readonly value: Uint8Array }
  | { readonly type: 'del'; readonly key: Uint8Array }

export interface KvRange {
  /** First key, inclusive. */
  readonly gte?: Uint8Array
  /** End key, exclusive. */
  readonly lt?: Uint8Array
  readonly reverse?: boolean
  readonly limit?: number
}

export interface KvEntry {
  readonly key: Uint8Array
  readonly value: Uint8Array
}

/** A consistent view; must be closed. */
export interface KvSnapshot {
  get(key: Uint8Array): Promise<Uint8Array | undefined>
  iterate(range: KvRange): AsyncIterable<KvEntry>
  close(): Promise<void>
}

export interface Kv {
  get(key: Uint8Array): Promise<Uint8Array | undefined>
  /** Blocks for the time of a cached read, seldom a disk read: for apply, which must be synchronous. */
  getSync(key: Uint8Array): Uint8Array | undefined
  batch(operations: readonly KvOperation[], options: { readonly sync: boolean }): Promise<void>
  /** Entries of a consistent view taken when the iteration starts. */
  iterate(range: KvRange): AsyncIterable<KvEntry>
  snapshot(): KvSnapshot
  /** Writes what is in memory to sorted tables and syncs them: after it, nothing depends on the store's own log. */
  flush(): Promise<void>
  close(): Promise<void>
}

/** Opens stores by name below one directory. */
export interface KvFactory {
  /**
   * Throws LOCKED when another process has it, CORRUPT when it does not open. Syncs the directory of the stores: names that
   * were made, moved or removed in it before, also by a process that was killed, are durable when it resolves.
   */
  open(name: string): Promise<Kv>
  /** Removes a closed store and everything in it: the next open finds it empty, or, after a crash in between, as it was. */
  destroy(name: string): Promise<void>
  /**
   * Looks through the files of a closed store without changing them: one line that says what is damaged, or undefined.
   * Absent where opening tells it all. A store that another process has open may look damaged.
   */
  check?(name: string): Promise<string | undefined>
  /** Throws LOCKED when another process has the store open. Does not open it, which damage may make deadly. */
  probeLock?(name: string): Promise<void>
}
