/**
 * The node's one stream to the meta leader: find it, register, send heartbeats, take orders; and again when it breaks.
 *
 * Contact with meta counts from the moment a heartbeat was *sent*, not from when its Beat came: a Beat that was long on
 * its way says nothing about now. The node stays with a leader only while Beats come; a stream without one for
 * `metaSilenceMs` is dropped, because a paused leader keeps its connections open.
 *
 * The highest fence seen is kept for the life of the process and orders below it are refused. Of its two parts the term
 * needs no disk: after a restart the first order can only follow a Registered, which a deposed leader cannot commit. The
 * incarnation of the cluster is kept in the disks' identities, before anything is ordered under it: leaders from before a
 * recovery of the metadata could commit among themselves (docs/RULES.md, rule 2).
 * Invariant: at most one stream at a time; grants, findings and orders belong to the stream they came on.
 */

import { Backoff } from '../../base/backoff.ts'
import { toHex } from '../../base/bytes.ts'
import { isAddress } from '../../model/address.ts'
import { asStoreError, StoreError } from '../../model/errors.ts'
import type { NodeId, ZoneId } from '../../model/ids.ts'
import { isHexId } from '../../model/ids.ts'
import { fenceOf, incarnationOf } from '../../model/fence.ts'
import { newestVersion } from '../../model/version.ts'
import type { Timer } from '../../ports/clock.ts'
import type { Env } from '../../ports/env.ts'
import type { Duplex } from '../../ports/net.ts'
import { safeCounter } from '../../wire/checks.ts'
import type { holdfast } from '../../wire/messages.ts'
import { nodeMethods } from '../../wire/methods.ts'
import type { DiskFault, Disks, DiskSlot } from './disks.ts'
import { Findings } from './findings.ts'
import { Orders } from './orders.ts'
import type { DiskStatus } from './types.ts'
import { scrubReport } from './scrub-report.ts'

type NodeMessageOut = holdfast.v1.NodeMessage.$Properties
type MetaOrder = holdfast.v1.MetaOrder

/** A leader that accepted the stream must answer Register within this; it is one Raft entry. */
const registerMs = 10_000
/** NOT_LEADER hints followed in a row without waiting. */
const hintsMax = 3
/** Heartbeats whose sending time is kept. */
const beatsKept = 64

export interface AttachOptions {
  readonly id: NodeId
  readonly zone: ZoneId
  /** Addresses that others shall use. */
  readonly addresses: readonly string[]
  /** Addresses of meta nodes to start with. */
  readonly meta: readonly string[]
  readonly heartbeatMs: number
  readonly metaSilenceMs: number
  /** Directories that could not be opened. */
  readonly faults?: readonly DiskFault[]
  /** Bytes of puts in flight. */
  readonly inflightBytes: () => number
  /** The node can never attach here (another cluster, too old a program). */
  readonly onFatal: (error: StoreError) => void
}

/** One attempt to attach and, when it works, the stream until it breaks. */
class Session {
  readonly #env: Env
  readonly #disks: Disks
  readonly #options: AttachOptions
  readonly #attach: Attach
  readonly #stream: Duplex<NodeMessageOut, MetaOrder>
  readonly #orders: Orders
  readonly #sent = new Map<number, number>()
  readonly #openedMs: number
  #lastBeatMs: number
  #timer: Timer
  #drained: (() => void)[] = []
  #registered = false
  #over = false
  /** The heartbeat that was sent for findings and has no answer yet. */
  #tellingIn: number | undefined

  constructor(env: Env, disks: Disks, options: AttachOptions, attach: Attach, address: string) {
    this.#env = env
    this.#disks = disks
    this.#options = options
    this.#attach = attach
    this.#openedMs = env.clock.monotonicMs()
    this.#lastBeatMs = this.#openedMs
    this.#stream = env.net.open(address, nodeMethods.attach)
    this.#orders = new Orders(env, disks, {
      result: (result) => this.#send({ result }),
      report: (report) => this.#send({ report }),
      drained: () => (this.#over ? Promise.resolve() : new Promise((resolve) => this.#drained.push(resolve))),
    })
    this.#timer = env.clock.after(registerMs, () =>
      this.#drop(new StoreError('TIMEOUT', `register at ${address}: no answer within ${registerMs} ms`)),
    )
    this.#stream.onMessage((message) => this.#receive(message))
    this.#stream.onDrain(() => this.#onDrain())
    this.#stream.onClose((error) => this.#ended(error))
    this.#send({ register: attach.registration() })
  }

  get registered(): boolean {
    return this.#registered
  }

  #send(message: NodeMessageOut): boolean {
    return this.#over ? true : this.#stream.send(message)
  }

  #onDrain(): void {
    const wake = this.#drained
    this.#drained = []
    for (const resume of wake) resume()
  }

  #drop(error: StoreError): void {
    this.#stream.destroy(error)
    this.#ended(error)
  }

  #ended(error: StoreError | undefined): void {
    if (this.#over) return
    this.#over = true
    this.#timer.cancel()
    this.#orders.stop()
    this.#onDrain()
    this.#attach.sessionEnded(this, error)
  }

  #receive(message: MetaOrder): void {
    if (this.#over) return
    const term = safeCounter(message.term, 'term')
    if (this.#attach.isOld(term)) {
      this.#drop(new StoreError('FENCED', `order of fence ${term}: a later leader was seen`))
      return
    }
    // Only the fences of its own cluster count: whose this one is, is known when it has registered the node.
    if (this.#registered) this.#attach.seen(term)
    if (message.registered) this.#onRegistered(message.registered, term)
    else if (!this.#registered) this.#drop(new StoreError('INVALID_ARGUMENT', 'meta sent an order before Registered'))
    else if (message.beat) this.#onBeat(message.beat)
    else this.#orders.take(message)
  }

  #onRegistered(message: holdfast.v1.Registered, term: number): void {
    if (!isHexId(message.clusterId)) {
      this.#drop(new StoreError('INVALID_ARGUMENT', 'meta sent a cluster id that is none'))
      return
    }
    const grants = message.disks.map(({ id, number, generation }) => ({
      id,
      number: safeCounter(number, 'number'),
      generation: safeCounter(generation, 'generation'),
    }))
    this.#attach.adopt(message.clusterId, incarnationOf(term)).then(
      () => {
        if (this.#over) return
        this.#registered = true
        this.#attach.seen(term)
        this.#disks.grant(grants)
        this.#disks.contact(this.#openedMs)
        this.#lastBeatMs = this.#env.clock.monotonicMs()
        this.#attach.registeredBy(this, term)
        this.#timer.cancel()
        this.tell()
      },
      (error: unknown) => this.#drop(asStoreError(error, 'take over the cluster id')),
    )
  }

  #onBeat(beat: holdfast.v1.Beat): void {
    const sequence = safeCounter(beat.sequence, 'sequence')
    const sentMs = this.#sent.get(sequence)
    this.#lastBeatMs = this.#env.clock.monotonicMs()
    if (sentMs !== undefined) this.#disks.contact(sentMs)
    for (const kept of this.#sent.keys()) {
      if (kept <= sequence) this.#sent.delete(kept)
    }
    this.#attach.acknowledged(sequence, beat.meta)
    if (this.#tellingIn !== undefined && sequence >= this.#tellingIn) {
      this.#tellingIn = undefined
      if (this.#attach.unsent) this.tell()
    }
  }

  /** A heartbeat for findings, at once, unless one is on its way: then the next one, which is sent when meta has answered. */
  tell(): void {
    if (this.#over || !this.#registered || this.#tellingIn !== undefined) return
    this.#tellingIn = this.#attach.nextSequence
    this.heartbeat()
  }

  /** Sends a heartbeat now and arms the next one. */
  heartbeat(): void {
    if (this.#over || !this.#registered) return
    this.#timer.cancel()
    const nowMs = this.#env.clock.monotonicMs()
    if (nowMs - this.#lastBeatMs > this.#options.metaSilenceMs) {
      this.#drop(
        new StoreError('TIMEOUT', `meta leader: no answer to heartbeats for ${this.#options.metaSilenceMs} ms`),
      )
      return
    }
    const heartbeat = this.#attach.nextHeartbeat()
    if (this.#sent.size < beatsKept) this.#sent.set(heartbeat.sequence, nowMs)
    this.#send({ heartbeat: heartbeat.message })
    this.#timer = this.#env.clock.after(this.#options.heartbeatMs, () => this.heartbeat())
  }

  goodbye(): void {
    if (this.#registered) this.#send({ goodbye: {} })
    this.#stream.end()
    this.#ended(undefined)
  }
}

/** Keeps the node attached from `start` to `stop`. */
export class Attach {
  readonly #env: Env
  readonly #disks: Disks
  readonly #options: AttachOptions
  readonly #incarnation: string
  readonly #findings = new Findings()
  readonly #backoff = new Backoff({ firstMs: 100, maxMs: 2000 })
  #meta: readonly string[]
  #hints: string[] = []
  #hintsInRow = 0
  #next = 0
  #session: Session | undefined
  #retry: Timer | undefined
  #sequence = 0
  #termSeen: number
  #wrongCluster = 0
  #lossLogged: string | undefined
  #stopped = false

  constructor(env: Env, disks: Disks, options: AttachOptions) {
    this.#env = env
    this.#disks = disks
    this.#options = options
    this.#meta = options.meta
    this.#termSeen = fenceOf(0, Math.max(1, ...disks.slots.map(({ engine }) => engine.clusterIncarnation)))
    this.#incarnation = toHex(env.entropy.bytes(16))
    // Shown as 0 from the start: an alarm on its rise needs a value to rise from.
    this.#countCorrupt(0)
    for (const slot of disks.slots) {
      slot.engine.onCorrupt((chunk, finding) => this.#foundCorrupt(slot, chunk, finding))
    }
  }

  /** True while a leader knows the node and answers. */
  get attached(): boolean {
    return this.#session?.registered === true && this.#disks.fresh()
  }

  start(): void {
    this.#next = Math.floor(this.#env.entropy.unit() * this.#meta.length)
    this.#connect()
  }

  /** Says goodbye and stays away. */
  stop(): void {
    this.#stopped = true
    this.#retry?.cancel()
    this.#session?.goodbye()
  }

  /** Something in the report changed that meta should hear at once. */
  changed(): void {
    this.#session?.heartbeat()
  }

  #countCorrupt(by: number): void {
    this.#env.metrics.count('holdfast_corrupt_replicas_total', 'Replicas of this node found corrupt.', by)
  }

  #foundCorrupt(slot: DiskSlot, chunk: number, finding: string): void {
    this.#env.log.warn('replica corrupt', { disk: slot.number ?? 0, path: slot.engine.path, chunk, finding })
    this.#countCorrupt(1)
    this.#findings.add({ chunk, slot, finding })
    this.#session?.tell()
  }

  #connect(): void {
    if (this.#stopped || this.#session !== undefined) return
    const hint = this.#hints.shift()
    const address = hint ?? (this.#meta[this.#next % this.#meta.length] as string)
    if (hint === undefined) this.#next = (this.#next + 1) % this.#meta.length
    this.#session = new Session(this.#env, this.#disks, this.#options, this, address)
  }

  // What a session calls.

  /** A fence below the highest seen. */
  isOld(term: number): boolean {
    return term < this.#termSeen
  }

  /** A fence of this node's own cluster that is not old. */
  seen(term: number): void {
    this.#termSeen = Math.max(this.#termSeen, term)
  }

  registration(): holdfast.v1.Register.$Properties {
    const clusterId = this.#disks.slots.find((slot) => slot.engine.clusterId !== undefined)?.engine.clusterId
    return {
      node: this.#options.id,
      clusterId: clusterId ?? '',
      addresses: [...this.#options.addresses],
      zone: this.#options.zone,
      incarnation: this.#incarnation,
      disks: this.#disks.slots.map((slot) => this.#report(slot)),
      termSeen: this.#termSeen,
      versionMax: newestVersion,
    }
  }

  #report(slot: DiskSlot): holdfast.v1.DiskReport.$Properties {
    const status = slot.engine.status()
    const { capacityBytes, usedBytes, freeForNewBytes, chunks, chunkIdMax } = status
    const { id, clean, rebuilt } = slot.engine
    const state = this.#disks.stateOf(slot)
    return {
      id,
      state,
      capacityBytes,
      usedBytes,
      freeForNewBytes,
      chunks,
      chunkIdMax,
      clean,
      rebuilt,
      ...healthOf(status),
      ...scrubReport(slot),
    }
  }

  /** True while there are findings that meta was not told on this stream. */
  get unsent(): boolean {
    return this.#findings.unsent
  }

  /** The number of the next heartbeat. */
  get nextSequence(): number {
    return this.#sequence + 1
  }

  nextHeartbeat(): { sequence: number; message: holdfast.v1.Heartbeat.$Properties } {
    this.#sequence += 1
    const sequence = this.#sequence
    const message = {
      sequence,
      disks: this.#disks.slots.map((slot) => this.#report(slot)),
      inflightBytes: this.#options.inflightBytes(),
      corrupt: this.#findings.take(sequence),
      faults: (this.#options.faults ?? []).map(({ path, reason }) => ({ path, reason })),
    }
    return { sequence, message }
  }

  acknowledged(sequence: number, meta: readonly string[]): void {
    this.#findings.acknowledge(sequence)
    const usable = meta.filter(isAddress)
    if (usable.length > 0) this.#meta = usable
  }

  /**
   * Gives every disk the cluster's and the node's id and the incarnation; one that has them already is only checked. A
   * disk that cannot take them fails by itself, and the node goes on with the others.
   */
  async adopt(clusterId: string, incarnation: number): Promise<void> {
    for (const slot of this.#disks.slots) {
      if (slot.failed) continue
      try {
        await slot.engine.adopt(clusterId, this.#options.id, incarnation)
      } catch (error) {
        if (!slot.failed) throw error
      }
    }
  }

  registeredBy(session: Session, term: number): void {
    if (session !== this.#session) return
    this.#backoff.reset()
    this.#hints = []
    this.#hintsInRow = 0
    this.#wrongCluster = 0
    this.#lossLogged = undefined
    this.#env.log.info('attached to meta leader', { term })
  }

  sessionEnded(session: Session, error: StoreError | undefined): void {
    if (session !== this.#session) return
    this.#session = undefined
    this.#findings.detach()
    if (this.#stopped) return
    this.#logLoss(error)
    if (error !== undefined && this.#isFatal(error)) {
      this.#stopped = true
      this.#options.onFatal(error)
      return
    }
    const leader = error?.code === 'NOT_LEADER' ? (error.details.leader ?? []).filter(isAddress) : []
    if (leader.length > 0 && this.#hintsInRow < hintsMax) {
      this.#hintsInRow += 1
      this.#hints = [...leader]
      this.#connect()
      return
    }
    this.#hintsInRow = 0
    this.#retry = this.#env.clock.after(this.#backoff.next(this.#env.entropy.unit()), () => this.#connect())
  }

  /** A line when it begins and when the reason changes, not one for each try. */
  #logLoss(error: StoreError | undefined): void {
    const code = error?.code ?? 'ended'
    if (code === this.#lossLogged) return
    this.#lossLogged = code
    this.#env.log.info('not attached to a meta leader', { code, reason: error?.message })
  }

  /** One wrong address among right ones is only skipped; when every one refuses, trying on would hide the mistake. */
  #isFatal(error: StoreError): boolean {
    if (error.code !== 'WRONG_CLUSTER' && error.code !== 'INCOMPATIBLE_VERSION') return false
    this.#wrongCluster += 1
    return this.#wrongCluster >= this.#meta.length
  }
}

/** What a disk says of its health besides its state. */
function healthOf({
  reason,
  speed,
}: DiskStatus): Pick<holdfast.v1.DiskReport, 'reason' | 'syncUs' | 'readUs' | 'errors'> {
  const { syncMs, readMs, errors } = speed
  return { reason, syncUs: Math.ceil(syncMs * 1000), readUs: Math.ceil(readMs * 1000), errors }
}
