/**
 * `cluster.json`: how `holdfast up` tells its clients, and its own next start, where the nodes are.
 *
 * Invariant: the file is replaced whole (temporary file and rename), so that a reader sees one version.
 */

import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { StoreError } from '../model/errors.ts'

interface ClusterNode {
  readonly id: string
  readonly address: string
  readonly pid: number
}

export interface ClusterMeta extends ClusterNode {
  /** It votes and keeps no data. */
  readonly witness?: boolean | undefined
  /** It was added by hand and runs elsewhere: `holdfast up` does not start it. */
  readonly external?: boolean | undefined
}

export interface ClusterStorage extends ClusterNode {
  readonly zone: string
  readonly disks: readonly string[]
}

/** A contract with scripts. `pid` is 0 for a node that does not run. */
export interface ClusterFile {
  readonly clusterId: string
  readonly meta: readonly ClusterMeta[]
  readonly storage: readonly ClusterStorage[]
}

/** Directory that is looked into when none is named. */
export const clusterDirDefault = './.holdfast'

export function clusterFilePath(dir: string): string {
  return join(dir, 'cluster.json')
}

function isNode(value: unknown): value is ClusterNode {
  if (typeof value !== 'object' || value === null) return false
  const node = value as Record<string, unknown>
  return typeof node['id'] === 'string' && typeof node['address'] === 'string' && typeof node['pid'] === 'number'
}

function isStorage(value: unknown): value is ClusterStorage {
  if (!isNode(value)) return false
  const { zone, disks } = value as unknown as Record<string, unknown>
  return typeof zone === 'string' && Array.isArray(disks) && disks.every((disk) => typeof disk === 'string')
}

/** The file's content; undefined when there is none. Throws IO or USAGE when it cannot be used. */
export function readClusterFile(dir: string): ClusterFile | undefined {
  const path = clusterFilePath(dir)
  let parsed: unknown
  try {
    parsed = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    const { code } = error as { code?: string }
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw new StoreError('IO', `read ${path}: ${(error as Error).message}`, { cause: error, outcome: 'definite' })
  }
  const { clusterId, meta, storage } = (typeof parsed === 'object' && parsed !== null ? parsed : {}) as Record<
    string,
    unknown
  >
  if (
    typeof clusterId === 'string' &&
    Array.isArray(meta) &&
    meta.every(isNode) &&
    Array.isArray(storage) &&
    storage.every(isStorage)
  ) {
    return { clusterId, meta, storage }
  }
  throw new StoreError('USAGE', `${path} is not a cluster file: remove it, "holdfast up" writes it again`)
}

export function writeClusterFile(dir: string, content: ClusterFile): void {
  const path = clusterFilePath(dir)
  const temporary = `${path}.part-${process.pid}`
  writeFileSync(temporary, `${JSON.stringify(content, null, 2)}\n`)
  renameSync(temporary, path)
}
