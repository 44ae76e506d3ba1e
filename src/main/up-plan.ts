/**
 * What `holdfast up` will start: which nodes, where, with which data. A second start finds the first one's plan in
 * cluster.json and keeps to it; it may ask for more nodes, and for meta nodes that were added or removed meanwhile the
 * cluster itself has the last word (`followMembers`).
 *
 * Invariant: the addresses of meta nodes never change once the cluster is formed, because they are how its members and
 * clients know each other; when their ports are taken, the start is refused. Storage nodes may move: they register anew.
 */

import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { StoreError } from '../model/errors.ts'
import type { StatusMeta } from '../sdk/types.ts'
import type { ClusterFile, ClusterMeta, ClusterStorage } from './cluster-file.ts'
import { readClusterFile } from './cluster-file.ts'
import { findPorts, isPortFree } from './ports.ts'

export const upHost = '127.0.0.1'
const storageMax = 64
const metaMax = 5

export interface UpPlan {
  readonly dir: string
  readonly clusterId: string
  readonly meta: readonly ClusterMeta[]
  readonly storage: readonly ClusterStorage[]
  /** Lines to tell the user. */
  readonly notes: readonly string[]
}

function countOf(text: string | undefined, fallback: number, name: string, min: number, max: number): number {
  if (text === undefined) return fallback
  const value = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN
  if (!(value >= min && value <= max))
    throw new StoreError('USAGE', `--${name} ${JSON.stringify(text)} is out of bounds: use ${min} to ${max}`)
  return value
}

export function portOf(address: string): number {
  return Number(address.slice(address.lastIndexOf(':') + 1))
}

interface Wanted {
  /** Meta nodes that keep data. */
  readonly meta: number
  readonly witness: boolean
  readonly storage: number
  readonly zones: number
  /** First port to try. */
  readonly port: number
}

/** Plans a start from the flags as they were given. Throws USAGE or PORT_IN_USE. */
export async function planUp(flags: Readonly<Record<string, string | boolean | undefined>>): Promise<UpPlan> {
  const text = (name: string): string | undefined => (typeof flags[name] === 'string' ? flags[name] : undefined)
  const dir = resolve(text('dir') ?? './.holdfast')
  const saved = readClusterFile(dir)
  const zonesNow = Math.max(1, new Set(saved?.storage.map((node) => node.zone)).size || 2)
  const storage = countOf(text('storage'), saved?.storage.length ?? 4, 'storage', 1, storageMax)
  const zones = countOf(text('zones'), zonesNow, 'zones', 1, storageMax)
  const port = countOf(text('port'), 7400, 'port', 1, 64_535)
  const witness = flags['witness'] === true
  const rest = { storage, zones, port }
  if (saved !== undefined) {
    const count = saved.meta.filter((node) => node.witness !== true).length
    const meta = countOf(text('meta'), count, 'meta', 1, metaMax)
    return planAgain(dir, saved, { ...rest, meta, witness: witness || count < saved.meta.length })
  }
  const meta = countOf(text('meta'), witness ? 2 : 3, 'meta', 1, metaMax)
  if (witness && meta !== 2)
    throw new StoreError('USAGE', `--witness with --meta ${meta}: a witness stands beside exactly 2 meta nodes`)
  if (!witness && meta % 2 === 0)
    throw new StoreError(
      'USAGE',
      `--meta ${meta}: an even number of meta nodes survives no more failures: use 1, 3 or 5, or 2 with --witness`,
    )
  return planFirst(dir, { ...rest, meta, witness })
}

async function planFirst(dir: string, wanted: Wanted): Promise<UpPlan> {
  const { meta, witness, storage, zones, port: first } = wanted
  const metaIds = Array.from({ length: meta }, (_, at) => `m${at + 1}`)
  if (witness) metaIds.push('w1')
  const ports = await findPorts(upHost, first, metaIds.length + storage)
  const expected = ports.every((port, at) => port === first + at)
  const notes = expected
    ? []
    : [`some ports from ${first} on are taken: using ${ports.join(', ')} (each with HTTP on the port + 1000)`]
  const address = (at: number): string => `${upHost}:${ports[at]}`
  return {
    dir,
    clusterId: '',
    meta: metaIds.map((id, at) => newMeta(id, address(at), witness && at === meta)),
    storage: Array.from({ length: storage }, (_, at) => newStorage(dir, at, zones, address(metaIds.length + at))),
    notes,
  }
}

function newMeta(id: string, address: string, witness: boolean): ClusterMeta {
  return witness ? { id, address, pid: 0, witness } : { id, address, pid: 0 }
}

function newStorage(dir: string, at: number, zones: number, address: string): ClusterStorage {
  const id = `s${at + 1}`
  return { id, address, zone: `z${(at % zones) + 1}`, pid: 0, disks: [join(dir, id)] }
}

async function planAgain(dir: string, saved: ClusterFile, wanted: Wanted): Promise<UpPlan> {
  const notes: string[] = []
  const taken = new Set([...saved.meta, ...saved.storage].map((node) => portOf(node.address)))
  const nextAddress = async (): Promise<string> => {
    const [port = 0] = await findPorts(upHost, wanted.port, 1, taken)
    taken.add(port)
    return `${upHost}:${port}`
  }
  checkAgain(dir, saved, wanted)
  const meta = await metaAgain(dir, saved, notes)
  while (meta.filter((node) => node.witness !== true).length < wanted.meta) {
    meta.push(newMeta(freeId(dir, meta), await nextAddress(), false))
  }
  const storage: ClusterStorage[] = []
  for (const node of saved.storage) {
    if (await isPortFree(upHost, portOf(node.address))) {
      storage.push({ ...node, pid: 0 })
      continue
    }
    const address = await nextAddress()
    notes.push(`port ${portOf(node.address)} of ${node.id} is taken: it moves to ${portOf(address)}`)
    storage.push({ ...node, pid: 0, address })
  }
  for (let at = storage.length; at < wanted.storage; at++)
    storage.push(newStorage(dir, at, wanted.zones, await nextAddress()))
  return { dir, clusterId: saved.clusterId, meta, storage, notes }
}

function checkAgain(dir: string, saved: ClusterFile, wanted: Wanted): void {
  const witnesses = saved.meta.filter((node) => node.witness === true).length
  const meta = saved.meta.length - witnesses
  const same = wanted.meta === meta && wanted.witness === witnesses > 0
  // Nothing but growth of a cluster of whole nodes can be done by starting more.
  const grows = wanted.meta > meta && wanted.meta % 2 === 1 && !wanted.witness && saved.clusterId !== ''
  if ((same || grows) && wanted.storage >= saved.storage.length) return
  const beside = witnesses > 0 ? ' and a witness' : ''
  throw new StoreError(
    'USAGE',
    `${dir} holds a cluster of ${meta} meta${beside} and ${saved.storage.length} storage nodes: start it as it is or with more nodes (--meta 3 or 5), or use another --dir`,
  )
}

/** The meta nodes of an earlier start; those that were added by hand are started when their data is here. */
async function metaAgain(dir: string, saved: ClusterFile, notes: string[]): Promise<ClusterMeta[]> {
  const meta: ClusterMeta[] = []
  for (const node of saved.meta) {
    const free = await isPortFree(upHost, portOf(node.address))
    const { external, ...own } = { ...node, pid: 0 }
    if (external === true && (!free || !existsSync(join(dir, node.id)))) {
      notes.push(`meta node ${node.id} at ${node.address} was added by hand: ${free ? 'start it yourself' : 'it runs'}`)
      meta.push({ ...own, external })
    } else if (free) meta.push(own)
    else {
      throw new StoreError(
        'PORT_IN_USE',
        `port ${portOf(node.address)} (or ${portOf(node.address) + 1000}) of ${node.id} is taken: is "holdfast up" running for ${dir}? stop it, or free the port`,
      )
    }
  }
  return meta
}

/** A name without a past: the data of a node that was removed is refused by the cluster. */
function freeId(dir: string, meta: readonly ClusterMeta[]): string {
  for (let at = 1; ; at++) {
    const id = `m${at}`
    if (!meta.some((node) => node.id === id) && !existsSync(join(dir, id))) return id
  }
}

/** Meta nodes as the cluster's members say: those that were removed are gone, those that were added by hand are noted. */
export function followMembers(
  meta: readonly ClusterMeta[],
  members: readonly Pick<StatusMeta, 'id' | 'address' | 'role'>[],
): readonly ClusterMeta[] {
  const kept = meta.filter((node) => members.some((member) => member.id === node.id))
  const added = members.filter((member) => !meta.some((node) => node.id === member.id))
  if (added.length === 0 && kept.length === meta.length) return meta
  return [
    ...kept,
    ...added.map(({ id, address, role }) => ({ ...newMeta(id, address, role === 'witness'), external: true })),
  ]
}
