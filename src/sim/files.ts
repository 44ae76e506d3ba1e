/**
 * Simulated small files of one disk. `write` is atomic: a crash in its middle leaves the old content or the new one.
 * `overwrite` is not: a crash, or a write that fails, leaves any mix of small pieces of the two, which is harsher than
 * real sectors.
 */

import { assert } from '../base/assert.ts'
import type { Files } from '../ports/files.ts'
import type { SimProcess } from './clock.ts'
import type { SimDevice } from './disk.ts'
import type { Seeded } from './seed.ts'

const tornPieceBytes = 32

interface PendingWrite {
  readonly name: string
  readonly bytes: Uint8Array
  readonly atomic: boolean
}

/** The files of one simulated disk; they outlive their process. */
export class SimFilesDisk {
  readonly #random: Seeded
  readonly #device: SimDevice
  readonly #files = new Map<string, Uint8Array>()
  readonly #pending = new Set<PendingWrite>()
  #watcher: ((name: string) => void) | undefined

  constructor(random: Seeded, device: SimDevice) {
    this.#random = random
    this.#device = device
  }

  /** Called after each write of a file, for checks from outside. */
  onWrite(watcher: (name: string) => void): void {
    this.#watcher = watcher
  }

  crash(): void {
    for (const write of this.#pending) this.#half(write)
    this.#pending.clear()
  }

  /** What is left of a write that did not come to its end. */
  #half(write: PendingWrite): void {
    if (!write.atomic) this.#files.set(write.name, this.#torn(this.#files.get(write.name), write.bytes))
    else if (this.#random.chance(0.5)) this.#files.set(write.name, write.bytes)
  }

  wipe(): void {
    this.#files.clear()
    this.#pending.clear()
  }

  has(name: string): boolean {
    return this.#files.has(name)
  }

  /** Flips a bit of a file, as rot does. */
  flip(name: string, offset: number): void {
    const bytes = this.#files.get(name)
    assert(bytes !== undefined && offset < bytes.length, 'what rots is there')
    bytes[offset] = (bytes[offset] as number) ^ 0x10
  }

  /** The Files port for one incarnation of a process. */
  port(host: SimProcess): Files {
    const put = async (name: string, bytes: Uint8Array, atomic: boolean): Promise<void> => {
      const pending: PendingWrite = { name, bytes: bytes.slice(), atomic }
      this.#pending.add(pending)
      try {
        await this.#device.work('sync', host, `file ${name}`)
        this.#files.set(name, pending.bytes)
        this.#watcher?.(name)
      } catch (error) {
        this.#half(pending)
        throw error
      } finally {
        this.#pending.delete(pending)
      }
    }
    return {
      read: async (name) => this.#files.get(name)?.slice(),
      write: async (name, bytes) => await put(name, bytes, true),
      overwrite: async (name, bytes) => await put(name, bytes, false),
      remove: async (name) => {
        await this.#device.work('sync', host, `remove ${name}`)
        this.#files.delete(name)
      },
      list: async () => [...this.#files.keys()].sort(),
      freeBytes: async () => this.#device.freeBytes(),
    }
  }

  #torn(old: Uint8Array | undefined, fresh: Uint8Array): Uint8Array {
    const out = new Uint8Array(Math.max(old?.length ?? 0, fresh.length))
    if (old !== undefined) out.set(old)
    for (let at = 0; at < fresh.length; at += tornPieceBytes) {
      if (this.#random.chance(0.5)) out.set(fresh.subarray(at, at + tornPieceBytes), at)
    }
    return out
  }
}
