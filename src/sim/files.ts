/**
 * Simulated small files of one disk. `write` is atomic: a crash in its middle leaves the old content or the new one.
 * `overwrite` is not: a crash leaves any mix of small pieces of the two, which is harsher than real sectors.
 */

import type { Files } from '../ports/files.ts'
import type { SimProcess, World } from './clock.ts'
import type { DiskTimes } from './kv.ts'
import type { Seeded } from './seed.ts'

const tornPieceBytes = 32

interface PendingWrite {
  readonly name: string
  readonly bytes: Uint8Array
  readonly atomic: boolean
}

/** The files of one simulated disk; they outlive their process. */
export class SimFilesDisk {
  readonly #world: World
  readonly #random: Seeded
  readonly #times: DiskTimes
  readonly #files = new Map<string, Uint8Array>()
  readonly #pending = new Set<PendingWrite>()

  constructor(world: World, random: Seeded, times: DiskTimes) {
    this.#world = world
    this.#random = random
    this.#times = times
  }

  crash(): void {
    for (const write of this.#pending) {
      if (write.atomic) {
        if (this.#random.chance(0.5)) this.#files.set(write.name, write.bytes)
      } else {
        this.#files.set(write.name, this.#torn(this.#files.get(write.name), write.bytes))
      }
    }
    this.#pending.clear()
  }

  wipe(): void {
    this.#files.clear()
    this.#pending.clear()
  }

  /** The Files port for one incarnation of a process. */
  port(host: SimProcess): Files {
    const wait = (label: string): Promise<void> => {
      const delayMs = this.#random.between(0.3, 1.7) * this.#times.syncMs
      return new Promise((resolve) => {
        this.#world.after(delayMs, `${host.id} ${label}`, host, resolve)
      })
    }
    const put = async (name: string, bytes: Uint8Array, atomic: boolean): Promise<void> => {
      const pending: PendingWrite = { name, bytes: bytes.slice(), atomic }
      this.#pending.add(pending)
      await wait(`file ${name}`)
      this.#pending.delete(pending)
      this.#files.set(name, pending.bytes)
    }
    return {
      read: async (name) => this.#files.get(name)?.slice(),
      write: async (name, bytes) => await put(name, bytes, true),
      overwrite: async (name, bytes) => await put(name, bytes, false),
      remove: async (name) => {
        await wait(`remove ${name}`)
        this.#files.delete(name)
      },
      list: async () => [...this.#files.keys()].sort(),
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
