/** A disk engine in a memory world, with shortcuts for tests. */

import { createXxHasher } from '../../src/drivers/hasher-xxhash.ts'
import type { Log } from '../../src/ports/log.ts'
import type { Metrics } from '../../src/ports/metrics.ts'
import { openDisk } from '../../src/services/storage/engine/disk.ts'
import type { DiskDeps, DiskOptions } from '../../src/services/storage/engine/types.ts'
import type { DiskEngine, PutRequest, PutResult } from '../../src/services/storage/types.ts'
import { FaultPlan } from './fault-plan.ts'
import { ManualClock } from './manual-clock.ts'
import { MemoryExtents, MemoryFiles } from './memory-extents.ts'
import { MemoryKvFactory } from './memory-kv.ts'

export const testHasher = await createXxHasher()

export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  with: () => silentLog,
}

export const silentMetrics: Metrics = {
  count: () => undefined,
  gauge: () => undefined,
  observe: () => undefined,
}

/** A small seeded generator of numbers in [0, 1): mulberry32. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 0x1_0000_0000
  }
}

/** `length` bytes that depend on `seed` and on their place. */
export function content(seed: number, length: number): Uint8Array {
  const next = seeded(seed)
  const out = new Uint8Array(length)
  const words = new Uint32Array(out.buffer, 0, Math.floor(length / 4))
  for (let i = 0; i < words.length; i++) words[i] = next() * 0x1_0000_0000
  for (let i = words.length * 4; i < length; i++) out[i] = next() * 256
  return out
}

export class DiskWorld {
  readonly clock = new ManualClock()
  readonly extents: MemoryExtents
  readonly kv: MemoryKvFactory
  readonly files: MemoryFiles
  readonly options: DiskOptions
  readonly #random: () => number
  faults = new FaultPlan()

  constructor(seed = 1, options: Partial<DiskOptions> = {}, capacityBytes?: number) {
    this.#random = seeded(seed)
    this.extents = new MemoryExtents(capacityBytes, this.faults)
    this.kv = new MemoryKvFactory(this.faults)
    this.files = new MemoryFiles(this.faults)
    const defaults = { path: '/disk', extentBytes: 1 << 20, reserveBytes: 0, arenaBytes: 4 << 20 }
    this.options = { ...defaults, ...options }
  }

  get deps(): DiskDeps {
    return {
      files: this.files,
      extents: this.extents.under(this.faults),
      kv: this.kv,
      hasher: testHasher,
      clock: this.clock,
      entropy: {
        bytes: (length) => Uint8Array.from({ length }, () => this.#random() * 256),
        unit: this.#random,
      },
      log: silentLog,
      metrics: silentMetrics,
    }
  }

  open(): Promise<DiskEngine> {
    return openDisk(this.deps, this.options)
  }

  /** The process is gone; what was not synced survives by chance. */
  crash(chance: () => number = this.#random): void {
    this.faults.stopped = true
    this.faults = new FaultPlan()
    this.extents.crash(chance, this.faults)
    this.kv.crash(chance, this.faults)
    this.files.faults = this.faults
  }
}

export async function put(
  disk: DiskEngine,
  id: number,
  bytes: Uint8Array,
  extra: Partial<PutRequest> = {},
): Promise<PutResult> {
  const writer = await disk.beginPut({ id, length: bytes.length, lease: 0, ...extra }, new AbortController().signal)
  for (let at = 0; at < bytes.length; at += 100_000) writer.write(bytes.subarray(at, at + 100_000))
  return writer.commit()
}

export async function get(disk: DiskEngine, id: number, offset = 0, length = 0): Promise<Uint8Array> {
  const reader = await disk.openRead(id, offset, length)
  const out = new Uint8Array(reader.bytes)
  let at = 0
  try {
    for (let piece = await reader.next(); piece !== undefined; piece = await reader.next()) {
      out.set(piece, at)
      at += piece.length
    }
  } finally {
    reader.close()
  }
  return out.subarray(0, at)
}

/** The code of the error that `work` rejects with, or 'none'. */
export async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work
    return 'none'
  } catch (error) {
    return (error as { code?: string }).code ?? String(error)
  }
}
