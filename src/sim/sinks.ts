/**
 * The small ports of a simulated process: entropy from the seed, a 64-bit hash, a log and counters that feed the trace.
 *
 * The hash is not XXH64 (no package may be imported here); it only has to tell different bytes apart and be the same
 * everywhere.
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

/** The Hasher port of the simulated world: two lanes of 32 bits over words (the mixing of MurmurHash3). */
export const simHasher: Hasher = {
  sumInto: (bytes, out, at) => {
    const { length } = bytes
    let a = 0x2545f491 ^ length
    let b = 0x9e3779b1 ^ length
    for (let i = 0; i < length; i += 4) {
      // Bytes past the end are undefined, which the shifts take for 0.
      const word =
        (bytes[i] as number) |
        ((bytes[i + 1] as number) << 8) |
        ((bytes[i + 2] as number) << 16) |
        ((bytes[i + 3] as number) << 24)
      a = Math.imul(a ^ word, 0xcc9e2d51)
      a = (a << 15) | (a >>> 17)
      b = Math.imul(b ^ word, 0x1b873593)
      b = (b << 13) | (b >>> 19)
    }
    putU32le(out, at, finish(a))
    putU32le(out, at + 4, finish(b))
  },
}

function finish(lane: number): number {
  let hash = lane
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

function putU32le(out: Uint8Array, at: number, value: number): void {
  for (let i = 0; i < 4; i++) out[at + i] = (value >>> (8 * i)) & 0xff
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
