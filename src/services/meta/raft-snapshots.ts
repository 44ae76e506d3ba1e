/**
 * Snapshots as the replicator moves them: taken from the state machine and streamed to a follower that is too far
 * behind; received and put in place of the local state and log.
 *
 * Order of an install: the install record is durable; the state machine builds the new state
 * beside the old one and makes it durable; before it swaps, appends are held and the offer is looked at again; then one
 * batch makes the log match; only then the snapshot is acknowledged. A failure before the swap leaves the old state in
 * place; one that comes later is fatal, whether the swap happened or not: the next start finds out, and finishes or undoes
 * the install.
 */

import { asStoreError, StoreError } from '../../model/errors.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Env } from '../../ports/env.ts'
import type { SnapshotOffer } from '../../core/raft/messages.ts'
import type { Raft } from '../../core/raft/raft.ts'
import type { SnapshotMark } from '../../core/raft/types.ts'
import type { RaftLog } from './log-types.ts'
import { sendSnapshot } from './snapshot-transfer.ts'
import type { LinkIdentity } from './link-identity.ts'
import type { StateImage, StateMachine } from './types.ts'

/** What snapshots need of the replicator. */
export interface SnapshotHost {
  readonly env: Env
  readonly machine: StateMachine
  readonly core: Raft
  readonly store: RaftLog
  readonly self: LinkIdentity
  /** Aborts when the node stops. */
  readonly signal: AbortSignal
  addressOf(id: NodeId): string
  /** Runs `task` when nobody else uses the state machine. */
  onMachine(task: () => Promise<void>): Promise<void>
  /** Uses the core, then carries out what it asks for. */
  use(step: (core: Raft) => void): void
  /** Carries out now what the core asks for. */
  pump(): void
  /** Resolves when any lane has made progress. */
  progress(): Promise<void>
  /** True when the node cannot go on or is stopping. */
  failed(): boolean
  /** The state machine holds another state now. */
  replaced(): void
  /** Ends the node; returns the reason. */
  fatal(error: unknown): Error
}

/** Who lacks fewer entries than this has caught up. */
const caughtUpEntries = 1024
/** Who has its snapshot and takes no further entry for so long must not hold the log back any longer. */
const stuckMs = 30_000

interface Sent {
  /** Last entry that the member has, or will have with the snapshot. */
  reached: number
  underWay: boolean
  /** When `reached` rose last. */
  movedMs: number
}

async function* noPieces(): AsyncGenerator<Uint8Array> {}

export class Snapshots {
  readonly #host: SnapshotHost
  #installing = false
  /** Members that are sent a snapshot, or were and have not caught up since. */
  readonly #sent = new Map<NodeId, Sent>()

  constructor(host: SnapshotHost) {
    this.#host = host
  }

  get installing(): boolean {
    return this.#installing
  }

  /**
   * Last entry that every member has who was sent a snapshot and has not caught up since. What follows it must stay in the
   * log: the snapshot of a large state takes minutes, and without what was appended meanwhile it would be sent for ever.
   */
  get reached(): number {
    const { core, env } = this.#host
    const { lastIndex } = core.log
    const nowMs = env.clock.monotonicMs()
    let lowest = lastIndex
    for (const [id, sent] of this.#sent) {
      const match = core.matchOf(id)
      if (match > sent.reached) {
        sent.reached = match
        sent.movedMs = nowMs
      }
      const done = sent.reached >= lastIndex - caughtUpEntries || nowMs - sent.movedMs > stuckMs
      if (core.sessionOf(id) === 0 || (done && !sent.underWay)) this.#sent.delete(id)
      else lowest = Math.min(lowest, sent.reached)
    }
    return lowest
  }

  /** Streams the current state to `to` and tells the core how that went. */
  async send(to: NodeId, term: number): Promise<void> {
    const { env, core, self, signal } = this.#host
    const image = await this.#imageFor(to)
    const { index, pieces } = image
    const sent: Sent = { reached: index, underWay: true, movedMs: 0 }
    this.#sent.set(to, sent)
    const config = core.log.configAt(index)
    const offer: SnapshotOffer = {
      kind: 'snapshot',
      from: self.node,
      to,
      term,
      session: core.sessionOf(to),
      index,
      indexTerm: core.log.term(index) ?? image.term,
      configIndex: config.index,
      config: config.config,
    }
    env.log.info('sending a snapshot', { to, index })
    let installed = false
    try {
      const head = { ...self, configIndex: core.config.index }
      await sendSnapshot(env, head, this.#host.addressOf(to), offer, pieces, signal)
      installed = true
      env.log.info('snapshot sent', { to, index })
    } catch (error) {
      env.log.warn('snapshot was not installed', { to, index, reason: asStoreError(error, 'snapshot').message })
    }
    sent.underWay = false
    sent.movedMs = env.clock.monotonicMs()
    if (!installed) this.#sent.delete(to)
    this.#host.use((raft) => raft.snapshotSent(to, installed, index))
  }

  /** The state as of now; for a witness the mark alone. */
  async #imageFor(to: NodeId): Promise<StateImage> {
    const { core, machine } = this.#host
    const member = core.config.config.members.find((item) => item.id === to)
    let image: StateImage | undefined
    await this.#host.onMachine(async () => {
      const index = machine.appliedIndex()
      const witness = member?.role === 'witness' || member?.role === 'leaving-witness'
      if (witness) image = { index, term: core.log.term(index) ?? 0, pieces: noPieces() }
      else image = await machine.snapshot()
    })
    if (image === undefined) throw new StoreError('INTERNAL', 'take a snapshot: the state machine gave none')
    return image
  }

  /** Receives and installs a snapshot. Rejects, with the old state in place, when it cannot. */
  async install(offer: SnapshotOffer, pieces: AsyncIterable<Uint8Array>): Promise<void> {
    const { core, env } = this.#host
    const refuse = (why: string): StoreError => new StoreError('UNAVAILABLE', `install a snapshot: ${why}`)
    if (this.#host.failed()) throw refuse('the node is stopping')
    if (this.#installing) throw refuse('another one is being installed')
    this.#host.use((raft) => raft.offerSnapshot(offer))
    if (this.#host.failed() || !core.wantsSnapshot(offer)) throw refuse('it is not wanted any more')
    this.#installing = true
    try {
      await this.#host.onMachine(() => this.#replace(offer, pieces))
      env.log.info('snapshot installed', { index: offer.index, from: offer.from })
    } finally {
      this.#installing = false
      this.#host.use((raft) => raft.hold(false))
    }
  }

  async #replace(offer: SnapshotOffer, pieces: AsyncIterable<Uint8Array>): Promise<void> {
    const { machine, core, store } = this.#host
    const mark: SnapshotMark = {
      index: offer.index,
      term: offer.indexTerm,
      config: { index: offer.configIndex, config: offer.config },
    }
    await store.beginInstall(mark)
    let swapping = false
    try {
      await machine.install(mark.index, mark.term, pieces, async () => {
        await this.#standStill(offer)
        swapping = true
      })
    } catch (error) {
      if (swapping) throw this.#host.fatal(error)
      await store.cancelInstall()
      throw error
    }
    try {
      this.#host.replaced()
      await store.finishInstall(mark, core.keepsSuffix(mark))
      core.snapshotInstalled(mark, offer)
    } catch (error) {
      throw this.#host.fatal(error)
    }
  }

  /** Resolves when the log stands still and the snapshot is still wanted. */
  async #standStill(offer: SnapshotOffer): Promise<void> {
    const { core } = this.#host
    while (core.hasUnsaved || !core.hold(true)) {
      core.hold(false)
      if (this.#host.failed()) break
      this.#host.pump()
      await this.#host.progress()
    }
    if (this.#host.failed() || !core.wantsSnapshot(offer)) {
      throw new StoreError('UNAVAILABLE', 'install a snapshot: it is not wanted any more')
    }
  }
}
