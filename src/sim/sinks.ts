/**
 * The small ports of a simulated process: entropy from the seed, a 64-bit hash, a log and counters that feed the trace.
 *
 * The hash is not XXH64 (no package may be imported here and chunk bytes do not exist in this world); it only has to
 * tell different bytes apart and be the same everywhere.
 */

import type { Entropy } from '../ports/entropy.ts'
import type { Hasher } from '../ports/hasher.ts'
import type { Log, LogFields } from '../ports/log.ts'
import type { Metrics } from '../ports/metrics.ts'
import type { World } from './clock.ts'
import type { Seeded } from './seed.ts'

/** The Entropy port over a seeded generator. */
export function simEntropy(random: Seeded): Entropy {
  return { bytes: (length) => random.bytes(length), unit: () => random.unit() }
}

/** 32-bit multiply-rotate hash (the mixing of MurmurHash3) of `bytes`. */
function lane(bytes: Uint8Array, seed: number): number {
  let hash = seed
  for (const byte of bytes) {
    hash = Math.imul(hash ^ byte, 0xcc9e2d51)
    hash = (hash << 15) | (hash >>> 17)
    hash = Math.imul(hash, 0x1b873593)
  }
  hash ^= bytes.length
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

function putLe32(out: Uint8Array, at: number, value: number): void {
  for (let i = 0; i < 4; i++) out[at + i] = (value >>> (8 * i)) & 0xff
}

/** The Hasher port of the simulated world; see the file comment. */
export const simHasher: Hasher = {
  sumInto: (bytes, out, at) => {
    putLe32(out, at, lane(bytes, 0x2545f491))
    putLe32(out, at + 4, lane(bytes, 0x9e3779b1))
  },
}

/** What a process logged. */
export interface LoggedEvent {
  readonly host: string
  readonly level: 'debug' | 'info' | 'warn' | 'error'
  readonly event: string
  readonly fields: LogFields
}

/** The Log port: every event is part of the trace, and `seen` gets it. */
export function simLog(world: World, host: string, seen: (event: LoggedEvent) => void, fields: LogFields = {}): Log {
  const write = (level: LoggedEvent['level'], event: string, more: LogFields = {}): void => {
    const all = { ...fields, ...more }
    const shown = Object.entries(all)
      .map(([name, value]) => `${name}=${String(value)}`)
      .join(' ')
    world.note(host, `${level} ${event} ${shown}`)
    seen({ host, level, event, fields: all })
  }
  return {
    debug: (event, more) => write('debug', event, more),
    info: (event, more) => write('info', event, more),
    warn: (event, more) => write('warn', event, more),
    error: (event, more) => write('error', event, more),
    with: (more) => simLog(world, host, seen, { ...fields, ...more }),
  }
}

/** The Metrics port: sums by name, labels folded away. */
export class SimMetrics implements Metrics {
  readonly sums = new Map<string, number>()

  count(name: string, _help: string, by = 1): void {
    this.sums.set(name, (this.sums.get(name) ?? 0) + by)
  }

  gauge(name: string, _help: string, value: number): void {
    this.sums.set(name, value)
  }

  observe(name: string, _help: string, seconds: number): void {
    this.sums.set(name, (this.sums.get(name) ?? 0) + seconds)
  }
}
