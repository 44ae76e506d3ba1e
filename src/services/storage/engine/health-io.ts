/**
 * Every I/O of a disk, watched: how long it takes, how it fails, and that its caller is answered even when it never returns.
 *
 * The ports that the engine is given are wrapped once, at the door (`watchExtents`, `watchKv`, `watchFiles`), so that no
 * part of the engine can forget it. What was seen goes to the gate, whose rules are in src/core/health/disk.ts.
 *
 * Bounded: at most `atOnce` I/Os of the disk are under way, reads at most all but two of them. A hung I/O keeps one of the
 * process's I/O threads for good; this is what leaves the other disks theirs.
 * Invariants: a failed disk is not touched any more; an I/O that was given up is not believed when it returns; a file is
 * not closed while an I/O on its descriptor is under way, or the number might be another file's by then. Age is counted in
 * the process's running time: a process that was stopped for an hour finds no disk hung.
 */

import type { IoKind } from '../../../core/health/disk.ts'
import type { Clock, Timer } from '../../../ports/clock.ts'
import type { ExtentFile, ExtentFiles } from '../../../ports/extents.ts'
import type { Files } from '../../../ports/files.ts'
import type { Kv, KvEntry, KvFactory, KvRange } from '../../../ports/kv.ts'
import type { DiskGate } from './types.ts'

const tickMsMax = 1000
/** What may take its time: making an extent, flushing the index, opening it. */
const patient = 4

export interface IoTask {
  readonly kind: IoKind
  /** One spot of the disk; read errors at different ones are counted. */
  readonly place: string
  /** The limits times this. */
  readonly patience?: number
  /** Its failure says nothing about the disk. */
  readonly quiet?: boolean
}

interface Flight {
  readonly task: IoTask
  readonly startMs: number
  /** Running time of the process at the start. */
  readonly startRunMs: number
  readonly reject: (error: Error) => void
}

interface Waiting {
  readonly start: () => void
  readonly reject: (error: Error) => void
}

export class IoWatch {
  readonly #gate: DiskGate
  readonly #clock: Clock
  readonly #atOnce: number
  readonly #tickMs: number
  /** Oldest first. */
  readonly #flights = new Set<Flight>()
  #running = 0
  #reading = 0
  #urgent: Waiting[] = []
  #reads: Waiting[] = []
  #runMs = 0
  #seenMs = 0
  #timer: Timer | undefined

  constructor(gate: DiskGate, clock: Clock, failMs: number, atOnce: number = Number.POSITIVE_INFINITY) {
    this.#gate = gate
    this.#clock = clock
    this.#atOnce = atOnce
    this.#tickMs = Math.min(tickMsMax, Math.max(10, failMs / 20))
    gate.onFailed(() => this.#refuseWaiting())
    gate.hung = () => this.hung
  }

  /** True while an I/O that was given up has not returned: it holds what it was given. */
  get hung(): boolean {
    return this.#running > this.#flights.size
  }

  /** Does `io` when its turn comes. Rejects with DISK_FAILED when the disk fails before, or has not answered in time. */
  run<T>(task: IoTask, io: () => Promise<T>): Promise<T> {
    if (this.#gate.failure !== undefined) return Promise.reject(this.#gate.failure)
    return new Promise((resolve, reject) => {
      const low = task.kind === 'read'
      const start = (): void => this.#start(task, io, resolve, reject)
      if (this.#mayStart(low)) start()
      else (low ? this.#reads : this.#urgent).push({ start, reject })
    })
  }

  /** The same for work that has begun and that a failed disk needs too, to its end. */
  outlast<T>(task: IoTask, work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => this.#start(task, () => work, resolve, reject))
  }

  #mayStart(low: boolean): boolean {
    if (this.#running >= this.#atOnce) return false
    return !low || this.#reading < Math.max(1, this.#atOnce - 2)
  }

  #start<T>(task: IoTask, io: () => Promise<T>, resolve: (value: T) => void, reject: (error: unknown) => void): void {
    const flight: Flight = { task, startMs: this.#clock.monotonicMs(), startRunMs: this.#runMs, reject }
    this.#flights.add(flight)
    this.#running++
    if (task.kind === 'read') this.#reading++
    this.#arm()
    io().then(
      (value) => {
        this.#landed(flight)
        if (!this.#flights.delete(flight)) return
        if (task.quiet !== true) this.#gate.ioDone(task.kind, this.#took(flight))
        resolve(value)
      },
      (error: unknown) => {
        this.#landed(flight)
        if (!this.#flights.delete(flight)) return
        if (task.quiet !== true) this.#gate.ioError(task.kind, error, task.place)
        reject(error)
      },
    )
  }

  #landed({ task }: Flight): void {
    this.#running--
    if (task.kind === 'read') this.#reading--
    while (this.#urgent.length > 0 && this.#mayStart(false)) this.#urgent.shift()?.start()
    while (this.#reads.length > 0 && this.#mayStart(true)) this.#reads.shift()?.start()
  }

  /** By the clock, less what the process itself stood still. */
  #took({ startMs, startRunMs, task }: Flight): number {
    const ranMs = this.#runMs - startRunMs + 2 * this.#tickMs
    return Math.min(this.#clock.monotonicMs() - startMs, ranMs) / (task.patience ?? 1)
  }

  #arm(): void {
    if (this.#timer !== undefined) return
    this.#seenMs = this.#clock.monotonicMs()
    this.#timer = this.#clock.after(this.#tickMs, () => this.#tick())
  }

  #tick(): void {
    this.#timer = undefined
    const nowMs = this.#clock.monotonicMs()
    this.#runMs += Math.min(nowMs - this.#seenMs, 2 * this.#tickMs)
    for (const { task, startRunMs } of this.#flights) {
      const ageMs = (this.#runMs - startRunMs) / (task.patience ?? 1)
      if (ageMs > 0 && this.#gate.ioWaiting(task.kind, ageMs)) this.#giveUp()
    }
    if (this.#flights.size > 0) this.#arm()
  }

  /** Answers everybody: what has not returned by now is not believed when it does. */
  #giveUp(): void {
    const { failure } = this.#gate
    if (failure === undefined) return
    const flights = [...this.#flights]
    this.#flights.clear()
    for (const { reject } of flights) reject(failure)
  }

  #refuseWaiting(): void {
    const { failure } = this.#gate
    const waiting = [...this.#urgent, ...this.#reads]
    this.#urgent = []
    this.#reads = []
    if (failure !== undefined) for (const { reject } of waiting) reject(failure)
  }
}

class WatchedFile implements ExtentFile {
  readonly number: number
  readonly size: number
  readonly durable?: boolean
  readonly readDirect?: (into: Uint8Array, offset: number) => Promise<number>
  readonly writeAll?: (pieces: readonly Uint8Array[], offset: number) => Promise<void>
  readonly #file: ExtentFile
  readonly #watch: IoWatch
  #using = 0
  #unused: (() => void) | undefined

  constructor(file: ExtentFile, watch: IoWatch) {
    this.number = file.number
    this.size = file.size
    this.#file = file
    this.#watch = watch
    if (file.durable !== undefined) this.durable = file.durable
    const readDirect = file.readDirect?.bind(file)
    const writeAll = file.writeAll?.bind(file)
    if (readDirect !== undefined) {
      this.readDirect = (into, offset) => this.#run('read', offset, () => readDirect(into, offset))
    }
    if (writeAll !== undefined) {
      this.writeAll = (pieces, offset) => this.#run('write', offset, () => writeAll(pieces, offset))
    }
  }

  #run<T>(kind: IoKind, offset: number, io: () => Promise<T>): Promise<T> {
    return this.#watch.run({ kind, place: `${this.number}:${offset}` }, () => this.#use(io))
  }

  /** Counts what is under way on the descriptor, given up or not. */
  async #use<T>(io: () => Promise<T>): Promise<T> {
    this.#using++
    try {
      return await io()
    } finally {
      this.#using--
      if (this.#using === 0) this.#unused?.()
    }
  }

  write(bytes: Uint8Array, offset: number): Promise<void> {
    return this.#run('write', offset, () => this.#file.write(bytes, offset))
  }

  sync(): Promise<void> {
    return this.#run('sync', 0, () => this.#file.sync())
  }

  read(into: Uint8Array, offset: number): Promise<number> {
    return this.#run('read', offset, () => this.#file.read(into, offset))
  }

  async close(): Promise<void> {
    if (this.#using > 0) {
      const unused = new Promise<void>((resolve) => {
        this.#unused = resolve
      })
      if (this.#watch.hung) {
        // It may never be; the descriptor is given back when it is.
        unused.then(() => this.#file.close()).catch(() => undefined)
        return
      }
      await unused
    }
    await this.#file.close()
  }
}

/** The extent files with every I/O watched. */
export function watchExtents(files: ExtentFiles, watch: IoWatch): ExtentFiles {
  const run = <T>(kind: IoKind, place: string, io: () => Promise<T>, patience = 1): Promise<T> =>
    watch.run({ kind, place, patience }, io)
  const look = <T>(place: string, io: () => Promise<T>): Promise<T> =>
    watch.run({ kind: 'lookup', place, quiet: true }, io)
  const wrap = (file: ExtentFile): ExtentFile => new WatchedFile(file, watch)
  const probe = files.openProbe?.bind(files)
  return {
    ...(probe === undefined ? {} : { openProbe: async () => wrap(await run('write', 'probe', probe)) }),
    alignment: files.alignment,
    mode: files.mode,
    arena: (size) => files.arena(size),
    list: () => look('list', () => files.list()),
    sizeOf: (number) => look(`${number}`, () => files.sizeOf(number)),
    create: async (number, size) => wrap(await run('write', `${number}`, () => files.create(number, size), patient)),
    open: async (number, durable) => wrap(await run('lookup', `${number}`, () => files.open(number, durable))),
    rename: (from, to) => run('write', `${from}`, () => files.rename(from, to)),
    remove: (number) => run('write', `${number}`, () => files.remove(number)),
    space: () => look('space', () => files.space()),
  }
}

/** Small files: a disk that hangs is noticed. Whether what failed there matters is for the caller to say. */
export function watchFiles(files: Files, watch: IoWatch): Files {
  const run = <T>(name: string, io: () => Promise<T>): Promise<T> =>
    watch.run({ kind: 'lookup', place: name, quiet: true }, io)
  return {
    read: (name) => run(name, () => files.read(name)),
    write: (name, bytes) => run(name, () => files.write(name, bytes)),
    overwrite: (name, bytes) => run(name, () => files.overwrite(name, bytes)),
    remove: (name) => run(name, () => files.remove(name)),
    list: () => run('list', () => files.list()),
    freeBytes: () => run('space', () => files.freeBytes()),
  }
}

/** The index's store. What a view of it costs is a read like any other. */
export function watchKv(factory: KvFactory, watch: IoWatch): KvFactory {
  const quiet = { kind: 'lookup', quiet: true, patience: patient } as const
  const check = factory.check?.bind(factory)
  const probeLock = factory.probeLock?.bind(factory)
  return {
    ...(probeLock === undefined
      ? {}
      : { probeLock: (name: string) => watch.run({ ...quiet, place: name }, () => probeLock(name)) }),
    ...(check === undefined
      ? {}
      : { check: (name: string) => watch.run({ ...quiet, place: name }, () => check(name)) }),
    open: async (name) => {
      const kv = await watch.run({ ...quiet, place: name }, () => factory.open(name))
      return watchedKv(kv, watch)
    },
    destroy: (name) => watch.run({ ...quiet, place: name }, () => factory.destroy(name)),
  }
}

function watchedKv(kv: Kv, watch: IoWatch): Kv {
  const lookup = { kind: 'lookup', place: 'index' } as const
  return {
    get: (key) => watch.run(lookup, () => kv.get(key)),
    getSync: (key) => kv.getSync(key),
    batch: (operations, options) => watch.run({ kind: 'index', place: 'index' }, () => kv.batch(operations, options)),
    iterate: (range) => watchedIterate(kv, range, watch),
    snapshot: () => kv.snapshot(),
    flush: () => watch.run({ kind: 'index', place: 'index', patience: patient }, () => kv.flush()),
    close: async () => {
      // It waits for what is under way, LevelDB's own compaction too, which may be for ever.
      const closing = kv.close()
      closing.catch(() => undefined)
      if (watch.hung) return
      const task = { kind: 'lookup', place: 'index', quiet: true, patience: patient } as const
      await watch.outlast(task, closing).catch((error: unknown) => {
        if (!watch.hung) throw error
      })
    },
  }
}

async function* watchedIterate(kv: Kv, range: KvRange, watch: IoWatch): AsyncGenerator<KvEntry> {
  const entries = kv.iterate(range)[Symbol.asyncIterator]()
  try {
    for (;;) {
      const next = await watch.run({ kind: 'lookup', place: 'index' }, () => entries.next())
      if (next.done === true) return
      yield next.value
    }
  } finally {
    if (!watch.hung) await entries.return?.()
  }
}
