/**
 * One table for everything a node can be told: name, type, default, bounds and what it means.
 *
 * Flags, environment variables and the keys of a --config file are all made from it, so that they cannot differ:
 * `--gc-grace 15m`, `HOLDFAST_GC_GRACE=15m` and `{"gc-grace": "15m"}` are the same thing. Durations are written with ms,
 * s, m, h or d, sizes with KiB, MiB, GiB or TiB; a bare number is milliseconds or bytes.
 *
 * Invariant: a value outside its bounds is refused with the option's name and bounds, never clamped.
 */

import { portOf } from '../model/address.ts'
import { StoreError } from '../model/errors.ts'
import { isNodeId } from '../model/ids.ts'
import type { MetaConfig, PeerAddress, RaftTimes, ScrubConfig, StorageConfig } from './types.ts'

export type OptionType = 'text' | 'list' | 'count' | 'duration' | 'bytes'

export interface ConfigOption {
  /** Kebab-case: the flag without its dashes. */
  readonly name: string
  readonly type: OptionType
  /** As a user would write it; undefined: required, or derived as `doc` says. */
  readonly fallback: string | undefined
  readonly required?: boolean
  /** In the base unit: count, milliseconds or bytes. */
  readonly min?: number
  readonly max?: number
  /** Placeholder of the value in the help. */
  readonly value: string
  readonly doc: string
  /** Of use only to a node that may lead: a witness takes it and does without. */
  readonly leader?: boolean
}

const secondMs = 1000
const dayMs = 24 * 60 * 60 * secondMs
const MiB = 1024 * 1024
const TiB = MiB * MiB

const listenOption: ConfigOption = {
  name: 'listen',
  type: 'text',
  fallback: undefined,
  required: true,
  value: 'H:P',
  doc: 'address to serve gRPC on; HTTP (health, metrics) is on port + 1000',
}
const advertiseOption: ConfigOption = {
  name: 'advertise',
  type: 'list',
  fallback: undefined,
  value: 'H:P[,H:P]',
  doc: 'addresses that others try in order to reach this node; default: the listen address, required when that is a wildcard',
}

function duration(name: string, fallback: string, min: number, max: number, doc: string): ConfigOption {
  return { name, type: 'duration', fallback, min, max, value: 'TIME', doc }
}

function count(name: string, fallback: string, min: number, max: number, doc: string): ConfigOption {
  return { name, type: 'count', fallback, min, max, value: 'N', doc }
}

const heartbeatOption = duration('heartbeat', '500ms', 50, 60 * secondMs, 'time between heartbeats of a storage node')

/** What the leader decides by. */
const leaderOptions: readonly ConfigOption[] = [
  duration(
    'repair-wait-degraded',
    '5m',
    0,
    dayMs,
    'wait before a chunk with a majority of its copies left is repaired',
  ),
  duration('repair-wait-at-risk', '15s', 0, dayMs, 'wait before a chunk with fewer than a majority left is repaired'),
  count('repair-copies-max', '32', 1, 10_000, 'repair copies that run at once in the cluster'),
  count('repair-copies-per-node', '4', 1, 1000, 'repair copies that run at once from and to one node'),
  heartbeatOption,
  duration('suspect-after', '3s', 200, dayMs, 'silence after which a storage node is suspected'),
  duration('down-after', '10s', 500, dayMs, 'silence after which a storage node is down, fenced and repaired'),
  duration('gc-grace', '15m', secondMs, 30 * dayMs, 'unreferenced chunks are kept so long for reads that still run'),
]

/** Options of `holdfast meta` and `holdfast witness`. */
export const metaOptions: readonly ConfigOption[] = [
  {
    name: 'id',
    type: 'text',
    fallback: undefined,
    required: true,
    value: 'M',
    doc: 'name of this meta node, one of the peers',
  },
  listenOption,
  advertiseOption,
  {
    name: 'data',
    type: 'text',
    fallback: undefined,
    required: true,
    value: 'DIR',
    doc: 'directory of the log and the metadata',
  },
  {
    name: 'peers',
    type: 'list',
    fallback: undefined,
    required: true,
    value: 'm1=H:P,...',
    doc: 'every meta node of the cluster, this one too, the same list on each',
  },
  duration('raft-tick', '25ms', 5, 10 * secondMs, 'length of one Raft tick'),
  count('raft-heartbeat-ticks', '2', 1, 1000, 'ticks between heartbeats of the leader'),
  count('raft-election-ticks', '10', 3, 10_000, 'ticks of silence before an election'),
  count('raft-election-spread', '6', 0, 10_000, 'ticks that are added to it at random, so that elections do not meet'),
  {
    name: 'raft-lease-reads',
    type: 'text',
    fallback: 'off',
    value: 'on|off',
    doc: 'the leader answers reads from its lease: faster, and wrong if the clocks of meta nodes run at very different rates',
  },
  {
    name: 'reserve',
    type: 'bytes',
    fallback: '256MiB',
    min: 0,
    max: TiB,
    value: 'SIZE',
    doc: 'growth of the metadata is refused when less than this is free on its filesystem',
  },
  ...leaderOptions.map((option) => ({ ...option, leader: true })),
]

/** Options of `holdfast storage`. */
export const storageOptions: readonly ConfigOption[] = [
  { name: 'id', type: 'text', fallback: undefined, required: true, value: 'S', doc: 'name of this storage node' },
  listenOption,
  advertiseOption,
  {
    name: 'disk',
    type: 'list',
    fallback: undefined,
    required: true,
    value: 'DIR[,DIR]',
    doc: 'data directories, one for each disk',
  },
  { name: 'meta', type: 'list', fallback: undefined, required: true, value: 'H:P,...', doc: 'addresses of meta nodes' },
  { name: 'zone', type: 'text', fallback: 'default', value: 'Z', doc: 'failure domain: copies are spread over zones' },
  {
    name: 'extent-size',
    type: 'bytes',
    fallback: '256MiB',
    min: 16 * MiB,
    max: TiB,
    value: 'SIZE',
    doc: 'size of one extent file; on a small disk at most three quarters of its reserve, so that a full disk can compact',
  },
  {
    name: 'reserve',
    type: 'bytes',
    fallback: '1GiB',
    min: 0,
    max: TiB,
    value: 'SIZE',
    doc: 'new chunks are refused when less is free; at most 2 % of the filesystem is kept, at least 64 MiB',
  },
  count(
    'compact-below',
    '50',
    0,
    95,
    'percent: an extent is compacted when less of it is of use; when a fifth of the disk or less is free, sooner, up to 95',
  ),
  {
    name: 'compact-rate',
    type: 'bytes',
    fallback: '64MiB',
    min: MiB,
    max: TiB,
    value: 'SIZE',
    doc: 'bytes per second that compaction reads and writes at most; a quarter or less of it while clients use the disk',
  },
  duration(
    'compact-idle',
    '5m',
    secondMs,
    365 * dayMs,
    'a disk that no client used for so long is compacted until it takes no more than a tenth above what is of use',
  ),
  {
    name: 'scrub',
    type: 'text',
    fallback: 'on',
    value: 'on|off',
    doc: 'read and verify everything on the disks, over and over; off: only on "holdfast scrub start"',
  },
  duration('scrub-period', '7d', 60 * secondMs, 365 * dayMs, 'a full pass of the scrub shall take no longer'),
  {
    name: 'scrub-rate-min',
    type: 'bytes',
    fallback: '1MiB',
    min: 0,
    max: TiB,
    value: 'SIZE',
    doc: 'bytes per second that the scrub reads at least while no client uses the disk',
  },
  {
    name: 'scrub-rate-max',
    type: 'bytes',
    fallback: '128MiB',
    min: 64 * 1024,
    max: TiB,
    value: 'SIZE',
    doc: 'bytes per second that the scrub of a disk never exceeds',
  },
  duration('meta-silence', '5s', 500, dayMs, 'writes are refused after so long without contact to meta'),
  heartbeatOption,
  duration(
    'disk-probe',
    '10s',
    100,
    dayMs,
    'time between two probes of a disk: a few bytes written, synced, read back',
  ),
  duration(
    'disk-suspect-after',
    '5s',
    50,
    dayMs,
    'an I/O that takes longer makes its disk suspect: it gets nothing new',
  ),
  duration('disk-fail-after', '30s', 100, dayMs, 'an I/O that has not returned after so long makes its disk failed'),
]

/** Values of one kind of node by option name, in base units. */
export type ConfigValues = Readonly<Record<string, string | number | readonly string[]>>

const units: Readonly<Record<'duration' | 'bytes' | 'count', Readonly<Record<string, number>>>> = {
  duration: { '': 1, ms: 1, s: secondMs, m: 60 * secondMs, h: 3600 * secondMs, d: dayMs },
  bytes: { '': 1, B: 1, KiB: 1024, MiB, GiB: 1024 * MiB, TiB },
  count: { '': 1 },
}

function usage(source: string, message: string): StoreError {
  return new StoreError('USAGE', `${source}: ${message}`)
}

function parseNumber(option: ConfigOption, type: 'count' | 'duration' | 'bytes', text: string, source: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(text.trim())
  const scale = match === null ? undefined : units[type][match[2] ?? '']
  if (match === null || scale === undefined) {
    const example = type === 'duration' ? '500ms, 5s or 15m' : type === 'bytes' ? '64MiB or 1GiB' : 'a whole number'
    throw usage(source, `${JSON.stringify(text)} is not a valid value of ${option.name}: write ${example}`)
  }
  const value = Number(match[1]) * scale
  const { min = 0, max = Number.MAX_SAFE_INTEGER } = option
  if (!Number.isInteger(value) || value < min || value > max) {
    const unit = type === 'duration' ? ' ms' : type === 'bytes' ? ' bytes' : ''
    throw usage(source, `${option.name} ${text} is out of bounds: use ${min} to ${max}${unit}`)
  }
  return value
}

/** One value as written by a user, in base units. `source` says where it was written. Throws USAGE. */
export function parseOption(option: ConfigOption, written: unknown, source: string): string | number | string[] {
  if (option.type === 'list') {
    const parts = Array.isArray(written) ? written : typeof written === 'string' ? written.split(',') : undefined
    const list = parts?.map((part: unknown) => (typeof part === 'string' ? part.trim() : ''))
    if (list === undefined || list.length === 0 || list.includes('')) {
      throw usage(source, `${option.name} must be a list without empty parts: ${option.value}`)
    }
    return list
  }
  if (typeof written !== 'string' && typeof written !== 'number')
    throw usage(source, `${option.name} must be text or a number`)
  const text = String(written)
  if (option.type === 'text') {
    if (text === '') throw usage(source, `${option.name} is empty: give ${option.value}`)
    return text
  }
  return parseNumber(option, option.type, text, source)
}

function textOf(values: ConfigValues, name: string): string {
  const value = values[name]
  if (typeof value !== 'string') throw usage('configuration', `${name} is missing: give --${name}`)
  return value
}

function numberOf(values: ConfigValues, name: string): number {
  const value = values[name]
  if (typeof value !== 'number') throw usage('configuration', `${name} is missing: give --${name}`)
  return value
}

function listOf(values: ConfigValues, name: string): readonly string[] {
  const value = values[name]
  if (typeof value === 'string' || typeof value === 'number' || value === undefined) {
    throw usage('configuration', `${name} is missing: give --${name}`)
  }
  return value
}

/** Throws USAGE unless `text` is `host:port`. */
export function checkHostPort(text: string, name: string): string {
  if (!((portOf(text) ?? Number.NaN) <= 64_535))
    throw usage(`--${name}`, `${JSON.stringify(text)} is not host:port with a port up to 64535`)
  return text
}

function checkId(id: string, name: string): string {
  if (!isNodeId(id))
    throw usage(`--${name}`, `${JSON.stringify(id)} is not a node name: use a-z, 0-9, ".", "_" and "-", at most 63`)
  return id
}

function advertised(values: ConfigValues, listen: string): readonly string[] {
  if (values['advertise'] !== undefined)
    return listOf(values, 'advertise').map((address) => checkHostPort(address, 'advertise'))
  if (/^(0\.0\.0\.0|\[::\]):/.test(listen)) {
    throw usage(
      '--advertise',
      `the listen address ${listen} is a wildcard: say under which host:port others reach this node`,
    )
  }
  return [listen]
}

function switchOf(values: ConfigValues, name: string): boolean {
  const value = textOf(values, name)
  if (value !== 'on' && value !== 'off') throw usage(`--${name}`, `${JSON.stringify(value)} is neither on nor off`)
  return value === 'on'
}

function peerOf(text: string): PeerAddress {
  const at = text.indexOf('=')
  if (at < 1) throw usage('--peers', `${JSON.stringify(text)} is not id=host:port`)
  return { id: checkId(text.slice(0, at), 'peers'), address: checkHostPort(text.slice(at + 1), 'peers') }
}

function raftTimes(values: ConfigValues): RaftTimes {
  const heartbeatTicks = numberOf(values, 'raft-heartbeat-ticks')
  const electionTicks = numberOf(values, 'raft-election-ticks')
  if (electionTicks <= heartbeatTicks) {
    throw usage(
      '--raft-election-ticks',
      `${electionTicks} ticks without a heartbeat are not more than the ${heartbeatTicks} between two: use more`,
    )
  }
  return {
    tickMs: numberOf(values, 'raft-tick'),
    heartbeatTicks,
    electionTicks,
    electionSpreadTicks: numberOf(values, 'raft-election-spread'),
    leaseReads: switchOf(values, 'raft-lease-reads'),
  }
}

/** Checked configuration of a meta node, or with `witness` of one that votes and keeps no data. Throws USAGE. */
export function metaConfig(values: ConfigValues, witness = false): MetaConfig {
  const id = checkId(textOf(values, 'id'), 'id')
  const listen = checkHostPort(textOf(values, 'listen'), 'listen')
  const peers = listOf(values, 'peers').map(peerOf)
  if (new Set(peers.map((peer) => peer.id)).size !== peers.length) throw usage('--peers', 'a node is named twice')
  if (!peers.some((peer) => peer.id === id))
    throw usage('--peers', `this node, ${id}, is not in the list: name every meta node`)
  const raft = raftTimes(values)
  const suspectMs = numberOf(values, 'suspect-after')
  const downMs = numberOf(values, 'down-after')
  if (downMs <= suspectMs) throw usage('--down-after', 'must be longer than --suspect-after')
  return {
    id,
    listen,
    advertise: advertised(values, listen),
    dataDir: textOf(values, 'data'),
    peers,
    witness,
    reserveBytes: numberOf(values, 'reserve'),
    raft,
    repair: {
      waitDegradedMs: numberOf(values, 'repair-wait-degraded'),
      waitAtRiskMs: numberOf(values, 'repair-wait-at-risk'),
      copiesMax: numberOf(values, 'repair-copies-max'),
      copiesPerNode: numberOf(values, 'repair-copies-per-node'),
    },
    health: { heartbeatMs: numberOf(values, 'heartbeat'), suspectMs, downMs },
    gcGraceMs: numberOf(values, 'gc-grace'),
  }
}

function scrubConfig(values: ConfigValues): ScrubConfig {
  const on = switchOf(values, 'scrub')
  const periodMs = numberOf(values, 'scrub-period')
  const rateMin = numberOf(values, 'scrub-rate-min')
  const rateMax = numberOf(values, 'scrub-rate-max')
  if (rateMin > rateMax) throw usage('--scrub-rate-min', 'is more than --scrub-rate-max: use less')
  return { on, periodMs, rateMin, rateMax }
}

/** Checked configuration of a storage node. Throws USAGE. */
export function storageConfig(values: ConfigValues): StorageConfig {
  const diskSuspectMs = numberOf(values, 'disk-suspect-after')
  const diskFailMs = numberOf(values, 'disk-fail-after')
  if (diskFailMs <= diskSuspectMs) throw usage('--disk-fail-after', 'must be longer than --disk-suspect-after')
  const listen = checkHostPort(textOf(values, 'listen'), 'listen')
  const disks = listOf(values, 'disk')
  if (new Set(disks).size !== disks.length) throw usage('--disk', 'a directory is named twice')
  return {
    id: checkId(textOf(values, 'id'), 'id'),
    listen,
    advertise: advertised(values, listen),
    disks,
    zone: checkId(textOf(values, 'zone'), 'zone'),
    meta: listOf(values, 'meta').map((address) => checkHostPort(address, 'meta')),
    extentBytes: numberOf(values, 'extent-size'),
    reserveBytes: numberOf(values, 'reserve'),
    compaction: {
      liveRatio: numberOf(values, 'compact-below') / 100,
      bytesPerSecond: numberOf(values, 'compact-rate'),
      idleMs: numberOf(values, 'compact-idle'),
    },
    scrub: scrubConfig(values),
    metaSilenceMs: numberOf(values, 'meta-silence'),
    heartbeatMs: numberOf(values, 'heartbeat'),
    diskProbeMs: numberOf(values, 'disk-probe'),
    diskSuspectMs,
    diskFailMs,
  }
}
