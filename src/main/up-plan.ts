/**
 * What `holdfast up` will start: which nodes, where, with which data. A second start finds the first one's plan in
 * cluster.json and keeps to it.
 *
 * Invariant: the addresses of meta nodes never change once the cluster is formed, because they are how its members and
 * clients know each other; when their ports are taken, the start is refused. Storage nodes may move: they register anew.
 */

import { join, resolve } from 'node:path'
import { StoreError } from '../model/errors.ts'
import type { ClusterFile, ClusterMeta, ClusterStorage } from './cluster-file.ts'
import { readClusterFile } from './cluster-file.ts'
import { findPorts, isPortFree } from './ports.ts'

export const upHost = '127.0.0.1'
const storageMax = 64

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

/** Plans a start from the flags as they were given. Throws USAGE or PORT_IN_USE. */
export async function planUp(flags: Readonly<Record<string, string | undefined>>): Promise<UpPlan> {
  const dir = resolve(flags['dir'] ?? './.holdfast')
  const saved = readClusterFile(dir)
  const meta = countOf(flags['meta'], saved?.meta.length ?? 3, 'meta', 1, 5)
  if (meta % 2 === 0)
    throw new StoreError(
      'USAGE',
      `--meta ${meta}: an even number of meta nodes survives no more failures: use 1, 3 or 5`,
    )
  const storage = countOf(flags['storage'], saved?.storage.length ?? 4, 'storage', 1, storageMax)
  const zones = countOf(
    flags['zones'],
    Math.max(1, new Set(saved?.storage.map((node) => node.zone)).size || 2),
    'zones',
    1,
    storageMax,
  )
  const port = countOf(flags['port'], 7400, 'port', 1, 64_535)
  return saved === undefined
    ? planFirst(dir, meta, storage, zones, port)
    : planAgain(dir, saved, meta, storage, zones, port)
}

async function planFirst(dir: string, meta: number, storage: number, zones: number, first: number): Promise<UpPlan> {
  const ports = await findPorts(upHost, first, meta + storage)
  const expected = ports.every((port, at) => port === first + at)
  const notes = expected
    ? []
    : [`some ports from ${first} on are taken: using ${ports.join(', ')} (each with HTTP on the port + 1000)`]
  const address = (at: number): string => `${upHost}:${ports[at]}`
  return {
    dir,
    clusterId: '',
    meta: Array.from({ length: meta }, (_, at) => ({ id: `m${at + 1}`, address: address(at), pid: 0 })),
    storage: Array.from({ length: storage }, (_, at) => newStorage(dir, at, zones, address(meta + at))),
    notes,
  }
}

function newStorage(dir: string, at: number, zones: number, address: string): ClusterStorage {
  const id = `s${at + 1}`
  return { id, address, zone: `z${(at % zones) + 1}`, pid: 0, disks: [join(dir, id)] }
}

async function planAgain(
  dir: string,
  saved: ClusterFile,
  meta: number,
  storage: number,
  zones: number,
  first: number,
): Promise<UpPlan> {
  if (meta !== saved.meta.length || storage < saved.storage.length) {
    throw new StoreError(
      'USAGE',
      `${dir} holds a cluster of ${saved.meta.length} meta and ${saved.storage.length} storage nodes: start it as it is, or use another --dir`,
    )
  }
  for (const node of saved.meta) {
    if (await isPortFree(upHost, portOf(node.address))) continue
    throw new StoreError(
      'PORT_IN_USE',
      `port ${portOf(node.address)} (or ${portOf(node.address) + 1000}) of ${node.id} is taken: is "holdfast up" running for ${dir}? stop it, or free the port`,
    )
  }
  const notes: string[] = []
  const taken = new Set([...saved.meta, ...saved.storage].map((node) => portOf(node.address)))
  const nodes: ClusterStorage[] = []
  for (const node of saved.storage) {
    if (await isPortFree(upHost, portOf(node.address))) {
      nodes.push({ ...node, pid: 0 })
      continue
    }
    const [port = 0] = await findPorts(upHost, first, 1, taken)
    taken.add(port)
    notes.push(`port ${portOf(node.address)} of ${node.id} is taken: it moves to ${port}`)
    nodes.push({ ...node, pid: 0, address: `${upHost}:${port}` })
  }
  for (let at = nodes.length; at < storage; at++) {
    const [port = 0] = await findPorts(upHost, first, 1, taken)
    taken.add(port)
    nodes.push(newStorage(dir, at, zones, `${upHost}:${port}`))
  }
  return {
    dir,
    clusterId: saved.clusterId,
    meta: saved.meta.map((node) => ({ ...node, pid: 0 })),
    storage: nodes,
    notes,
  }
}
