/**
 * `holdfast up`: a whole local cluster in the foreground, for trying things out: each node is a process of its own.
 *
 * A child that dies is named and not started again: this is where people try `kill -9`. Children hold the reading end of
 * a pipe from this process as their stdin and stop when it closes, so that none outlives it, however it ends. Meta nodes
 * that are added or removed by hand are followed: cluster.json has the members that the cluster has.
 *
 * Invariant: cluster.json names the addresses that the next start will use, and the pids of what runs now.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseTime } from '../faces/cli/context.ts'
import { asStoreError, StoreError } from '../model/errors.ts'
import type { ClusterStatus, Store } from '../sdk/types.ts'
import {
  type ClusterFile,
  type ClusterMeta,
  type ClusterStorage,
  clusterDirDefault,
  writeClusterFile,
} from './cluster-file.ts'
import { stopSignal } from './compose.ts'
import { makeDirectory } from './directories.ts'
import { connect } from './index.ts'
import { followMembers, planUp, type UpPlan } from './up-plan.ts'

const repairWait = '5s'
const readyDefault = '60s'
const stopMs = 10_000
/** How often the members are looked at. */
const followMs = 2_000
/** A meta node that ends at the start may have been removed: the leader says so within this time. */
const verdictMs = 5_000

interface Child {
  readonly id: string
  readonly kind: 'meta' | 'storage'
  readonly process: ChildProcess
  readonly logPath: string
  readonly ended: Promise<void>
  alive: boolean
  how: string
}

function metaArguments(plan: UpPlan, node: ClusterMeta): string[] {
  const { id, address, witness } = node
  const peers = plan.meta.map((peer) => `${peer.id}=${peer.address}`).join(',')
  const waits = ['--repair-wait-degraded', repairWait, '--repair-wait-at-risk', repairWait]
  const where = ['--id', id, '--listen', address, '--data', join(plan.dir, id), '--peers', peers]
  return witness === true ? ['witness', ...where] : ['meta', ...where, ...waits]
}

function storageArguments(plan: UpPlan, node: ClusterStorage): string[] {
  const meta = plan.meta.map((peer) => peer.address).join(',')
  return [
    'storage',
    '--id',
    node.id,
    '--listen',
    node.address,
    '--disk',
    node.disks.join(','),
    '--meta',
    meta,
    '--zone',
    node.zone,
  ]
}

function startChild(plan: UpPlan, kind: Child['kind'], id: string, args: readonly string[]): Child {
  const logPath = join(plan.dir, 'logs', `${id}.log`)
  const log = openSync(logPath, 'a')
  const script = fileURLToPath(new URL('./cli.js', import.meta.url))
  // A group of its own: Ctrl-C reaches this process, which stops the children in order.
  const started = spawn(process.execPath, [script, ...args, '--end-with-stdin'], {
    stdio: ['pipe', log, log],
    detached: true,
    // The default of 4 lets bulk reads hold up a sync that acknowledgements wait for.
    env: { UV_THREADPOOL_SIZE: '16', ...process.env },
  })
  closeSync(log)
  started.stdin?.on('error', () => undefined) // the child is gone; its exit says so
  const child: Child = {
    id,
    kind,
    process: started,
    logPath,
    alive: true,
    how: '',
    ended: new Promise((resolve) => {
      const end = (how: string): void => {
        child.alive = false
        child.how = how
        resolve()
      }
      started.once('error', (error) => end(error.message))
      started.once('exit', (code, signal) => end(signal === null ? `exit code ${code}` : signal))
    }),
  }
  return child
}

function lastLine(path: string): string {
  try {
    return readFileSync(path, 'utf8').trimEnd().split('\n').at(-1) ?? ''
  } catch {
    return ''
  }
}

class LocalCluster {
  readonly #plan: UpPlan
  readonly #say: (line: string) => void
  readonly children: readonly Child[]
  /** Meta nodes as far as the cluster has told. */
  #meta: readonly ClusterMeta[]
  #clusterId: string
  #stopping = false

  constructor(plan: UpPlan, say: (line: string) => void) {
    this.#plan = plan
    this.#say = say
    this.#meta = plan.meta
    this.#clusterId = plan.clusterId
    this.children = [
      ...plan.meta
        .filter((node) => node.external !== true)
        .map((node) => startChild(plan, 'meta', node.id, metaArguments(plan, node))),
      ...plan.storage.map((node) => startChild(plan, 'storage', node.id, storageArguments(plan, node))),
    ]
    this.save()
  }

  /** What cluster.json holds as of now. */
  content(): ClusterFile {
    const pidOf = (id: string): number => {
      const child = this.children.find((one) => one.id === id)
      return child?.alive === true ? (child.process.pid ?? 0) : 0
    }
    return {
      clusterId: this.#clusterId,
      meta: this.#meta.map((node) => ({ ...node, pid: pidOf(node.id) })),
      storage: this.#plan.storage.map((node) => ({ ...node, pid: pidOf(node.id) })),
    }
  }

  /** Writes cluster.json as of now. */
  save(): void {
    writeClusterFile(this.#plan.dir, this.content())
  }

  /** Waits until a leader answers, every meta node is a member and every storage node is up. Throws when a node ends first. */
  async ready(store: Store, signal: AbortSignal, readyMs: number): Promise<void> {
    const startMs = performance.now()
    for (;;) {
      const status = await store.admin.status({ timeoutMs: 2000, signal }).catch(() => undefined)
      if (signal.aborted) return
      const sinceMs = performance.now() - startMs
      const complete = status !== undefined && (await this.#addNew(store, status, signal, sinceMs))
      this.#checkDead(status, sinceMs)
      const nodes = status?.nodes ?? []
      const up = nodes.filter((node) => node.health === 'up' && node.disks.every((disk) => disk.reconciled)).length
      if (complete && up >= this.#plan.storage.length) return
      if (sinceMs > readyMs) {
        throw new StoreError(
          'TIMEOUT',
          `the cluster was not ready within ${readyMs / 1000} s: allow more with --timeout, or see the logs in ${join(this.#plan.dir, 'logs')}`,
        )
      }
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }

  /**
   * Adds a meta node that was started and is no member yet, and takes over what the members are now. True when nothing
   * is left to add, or was refused for so long that it is told and left to the user.
   */
  async #addNew(store: Store, status: ClusterStatus, signal: AbortSignal, sinceMs: number): Promise<boolean> {
    this.#clusterId = status.clusterId
    const isMember = (id: string): boolean => status.meta.some((member) => member.id === id)
    const fresh = this.#meta.find((node) => !isMember(node.id) && this.#isAlive(node.id))
    if (fresh === undefined) {
      this.#follow(status.meta)
      return true
    }
    try {
      await store.admin.meta.add(fresh.id, fresh.address, { signal })
      this.#say(`meta node ${fresh.id} was added`)
    } catch (error) {
      // It may be starting still, or be about to find out that it was removed.
      if (signal.aborted || sinceMs < verdictMs) return false
      this.#say(`meta node ${fresh.id} is no member: ${asStoreError(error, 'add it').message}`)
      return true
    }
    return false
  }

  #isAlive(id: string): boolean {
    return this.children.some((child) => child.id === id && child.alive)
  }

  #follow(members: ClusterStatus['meta']): void {
    const meta = followMembers(this.#meta, members)
    if (meta === this.#meta) return
    for (const { id } of this.#meta)
      if (!meta.some((node) => node.id === id))
        this.#say(`meta node ${id} was removed; its data stays in ${join(this.#plan.dir, id)}`)
    this.#meta = meta
    this.save()
  }

  /** Throws when a child ended that should not: anything but a meta node that was removed, as the leader knows. */
  #checkDead(status: ClusterStatus | undefined, sinceMs: number): void {
    for (const child of this.children) {
      if (child.alive) continue
      const isRemoved = status !== undefined && !status.meta.some((member) => member.id === child.id)
      const mayBeRemoved = status === undefined && this.#plan.clusterId !== '' && sinceMs < verdictMs
      if (child.kind === 'storage' || !(isRemoved || mayBeRemoved)) throw this.#startFailure(child)
    }
  }

  /** Looks at the members from time to time, until the signal aborts. */
  async follow(store: Store, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const members = await store.admin.meta.ls({ timeoutMs: followMs, signal }).catch(() => undefined)
      if (members !== undefined && !signal.aborted) this.#follow(members)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(done, followMs)
        function done(): void {
          clearTimeout(timer)
          signal.removeEventListener('abort', done)
          resolve()
        }
        signal.addEventListener('abort', done, { once: true })
      })
    }
  }

  #startFailure(child: Child): StoreError {
    const why = lastLine(child.logPath).replace(/^holdfast: /, '')
    return new StoreError(
      'UNAVAILABLE',
      `${child.kind} node ${child.id} did not start (${child.how}): ${why || `see ${child.logPath}`}`,
      {
        outcome: 'definite',
      },
    )
  }

  /** Tells of every child that dies from now on; resolves when none is left. */
  async watch(): Promise<void> {
    await Promise.all(
      this.children.map(async (child) => {
        await child.ended
        if (this.#stopping) return
        if (child.kind === 'meta' && !this.#meta.some((node) => node.id === child.id)) {
          this.#say(`meta node ${child.id} (pid ${child.process.pid}), which was removed, has ended: ${child.how}`)
          return
        }
        this.#say(
          `${child.kind} node ${child.id} (pid ${child.process.pid}) died: ${child.how}. It is not restarted; stop and start "holdfast up" to bring it back.`,
        )
        this.save()
      }),
    )
  }

  /** Stops everything: asks first, kills after ten seconds. */
  async stop(): Promise<void> {
    this.#stopping = true
    for (const child of this.children) if (child.alive) child.process.kill('SIGTERM')
    const timer = setTimeout(() => {
      for (const child of this.children) if (child.alive) child.process.kill('SIGKILL')
    }, stopMs)
    await Promise.all(this.children.map((child) => child.ended))
    clearTimeout(timer)
    this.save()
  }
}

function readyLine(dir: string, cluster: ClusterFile): string {
  const zones = new Set(cluster.storage.map((node) => node.zone)).size
  const shownDir = relative(process.cwd(), dir) || '.'
  const at = `./${shownDir}` === clusterDirDefault ? '' : ` --dir ${shownDir}`
  const witnesses = cluster.meta.filter((node) => node.witness === true).length
  const beside = witnesses > 0 ? ' + witness' : ''
  const nodes = `${cluster.meta.length - witnesses} meta${beside}, ${cluster.storage.length} storage, ${zones} zones`
  return `holdfast is ready (${nodes}; data in ${shownDir}; repair waits ${repairWait} here). Try: "npx holdfast mb photos${at}" and then "npx holdfast put README.md photos/readme.md${at}"`
}

export interface UpOutput {
  /** A line for people. */
  readonly say: (line: string) => void
  /** The cluster is ready. Undefined: a line for people says so. */
  readonly onReady?: ((cluster: ClusterFile) => void) | undefined
}

/**
 * Runs a local cluster until Ctrl-C or SIGTERM; resolves when everything has stopped. Throws USAGE, IO, PORT_IN_USE,
 * TIMEOUT, UNAVAILABLE.
 */
export async function runUp(
  flags: Readonly<Record<string, string | boolean | undefined>>,
  output: UpOutput,
): Promise<void> {
  const { say } = output
  const timeout = flags['timeout']
  const readyMs = parseTime(typeof timeout === 'string' ? timeout : readyDefault, '--timeout')
  const plan = await planUp(flags)
  makeDirectory(join(plan.dir, 'logs'))
  for (const note of plan.notes) say(note)
  const signalled = stopSignal()
  const controller = new AbortController()
  const stopped = signalled.then(() => controller.abort())
  const cluster = new LocalCluster(plan, say)
  const store = await connect({ meta: plan.meta.map((node) => node.address), retryMs: readyMs, sessions: false })
  try {
    await cluster.ready(store, controller.signal, readyMs)
  } catch (error) {
    await cluster.stop()
    await store.close()
    throw asStoreError(error, 'start the cluster')
  }
  cluster.save()
  if (!controller.signal.aborted) {
    if (output.onReady === undefined) say(readyLine(plan.dir, cluster.content()))
    else output.onReady(cluster.content())
  }
  const following = cluster.follow(store, controller.signal)
  const allDead = cluster.watch().then(() => 'all dead' as const)
  const ended = await Promise.race([stopped, allDead])
  controller.abort()
  await following
  await store.close()
  await cluster.stop()
  if (ended === 'all dead')
    throw new StoreError('UNAVAILABLE', 'every node has died: start "holdfast up" again', { outcome: 'definite' })
  say('stopped')
}
