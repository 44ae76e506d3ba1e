/**
 * The controllers of the meta leader, as the rest of the meta node sees them: take office, resign, and answer what only
 * they know. Everything here is derived state; a node that does not lead holds none of it.
 */

import type { MetaConfig } from '../../../config/types.ts'
import type { StoredReplicaState } from '../../../core/meta/records.ts'
import { StoreError } from '../../../model/errors.ts'
import type { DiskNumber, NodeId } from '../../../model/ids.ts'
import type { ReplicaState } from '../../../model/words.ts'
import type { Env } from '../../../ports/env.ts'
import type { Sample } from '../../../ports/metrics.ts'
import type { NetServer } from '../../../ports/net.ts'
import { safeCounter } from '../../../wire/checks.ts'
import type { holdfast } from '../../../wire/messages.ts'
import { nodeMethods } from '../../../wire/methods.ts'
import type { AppliedReply } from '../types.ts'
import type { ControlStatus } from './control-status.ts'
import { Leadership } from './leadership.ts'
import type { ScrubAction } from './scrub-control.ts'
import { type ControlDeps, notLeader, Term } from './term.ts'

export type { ControlStatus } from './control-status.ts'

/** All but `bind`, `onApplied`, `become`, `resign`, `stop` and the last ones reject or throw NOT_LEADER on a node that does not lead. */
export interface Control {
  /** Registers the NodeControl service. */
  bind(server: NetServer): void
  /** This node leads in `term`; whatever was known from another term is forgotten. */
  become(term: number): void
  resign(): void
  /** Called after every applied group, in order, on every node. */
  onApplied(index: number, results: readonly AppliedReply[]): void
  /** Resolves when placements and addresses can be given. */
  ready(): Promise<void>
  /** Throws NO_PLACEMENT, NO_SPACE or INVALID_ARGUMENT. */
  place(request: holdfast.v1.PlaceRequest.$Properties): holdfast.v1.PlaceReply.$Properties
  /** In order of their numbers; unknown ones are left out. */
  diskAddresses(disks: Iterable<DiskNumber>): holdfast.v1.DiskAddress.$Properties[]
  replicaState(disk: DiskNumber, stored: StoredReplicaState): ReplicaState
  /** Returns at once: the node is asked to look, and only its finding counts. */
  reportReplica(request: holdfast.v1.ReportReplicaRequest.$Properties): Promise<void>
  status(): Promise<ControlStatus>
  scrubStatus(): Promise<holdfast.v1.ScrubStatusReply.$Properties>
  /** NOT_FOUND when the node, or any node with an empty name, is not attached. */
  directScrub(action: ScrubAction, node: NodeId): Promise<holdfast.v1.DirectScrubReply.$Properties>
  /** Gauges from memory, of which `total` committed chunks are part; empty on a node that does not lead. */
  samples(total: number): readonly Sample[]
  /** True between `become` and `resign`. */
  leads(): boolean
  /** Registered nodes that are not decommissioned, with the version each supports; 0 when it was not heard in this term. */
  storageVersions(): readonly { readonly id: NodeId; readonly versionMax: number }[]
  /** Replicas that nobody knows and that stay because deletes are held, as far as disks have reported. */
  heldBack(): number
  stop(): Promise<void>
}

/** Makes the controllers of one meta node; nothing runs before `become`. */
export function createControl(env: Env, deps: ControlDeps, config: MetaConfig): Control {
  return new Controllers(env, deps, config)
}

class Controllers implements Control {
  readonly #env: Env
  readonly #deps: ControlDeps
  readonly #config: MetaConfig
  #leadership: Leadership | undefined
  #stopped = false

  constructor(env: Env, deps: ControlDeps, config: MetaConfig) {
    this.#env = env
    this.#deps = deps
    this.#config = config
  }

  bind(server: NetServer): void {
    server.stream(nodeMethods.attach, (stream) => {
      if (this.#leadership !== undefined) this.#leadership.sessions.accept(stream)
      else {
        stream.onMessage(() => undefined)
        stream.onClose(() => undefined)
        stream.destroy(notLeader(this.#deps.replicator))
      }
    })
  }

  become(term: number): void {
    this.resign()
    if (this.#stopped) return
    this.#env.log.info('controllers take office', { term })
    const leadership = new Leadership(new Term(term, this.#env, this.#deps, this.#config))
    // Whoever needs it awaits it; a term that ends before anyone does is no error.
    leadership.loaded.catch(() => undefined)
    this.#leadership = leadership
  }

  resign(): void {
    if (this.#leadership === undefined) return
    this.#env.log.info('controllers resign')
    this.#leadership.end()
    this.#leadership = undefined
  }

  onApplied(_index: number, results: readonly AppliedReply[]): void {
    this.#leadership?.onApplied(results)
  }

  async ready(): Promise<void> {
    await this.#leading().loaded
  }

  place(request: holdfast.v1.PlaceRequest.$Properties): holdfast.v1.PlaceReply.$Properties {
    return this.#leading().topology.place(request)
  }

  diskAddresses(disks: Iterable<DiskNumber>): holdfast.v1.DiskAddress.$Properties[] {
    return this.#leading().topology.addresses(disks)
  }

  replicaState(disk: DiskNumber, stored: StoredReplicaState): ReplicaState {
    return this.#leading().topology.replicaState(disk, stored)
  }

  async reportReplica(request: holdfast.v1.ReportReplicaRequest.$Properties): Promise<void> {
    const chunk = safeCounter(request.chunk ?? 0, 'chunk')
    const disk = safeCounter(request.disk ?? 0, 'disk', 0xffff_ffff)
    if (chunk === 0 || disk === 0) {
      throw new StoreError('INVALID_ARGUMENT', 'report a replica: name the chunk and the disk')
    }
    this.#leading().evidence.report(chunk, disk)
  }

  samples(total: number): readonly Sample[] {
    return this.#leadership?.samples(total) ?? []
  }

  status(): Promise<ControlStatus> {
    return this.#leading().status()
  }

  scrubStatus(): Promise<holdfast.v1.ScrubStatusReply.$Properties> {
    return this.#leading().scrub.status()
  }

  directScrub(action: ScrubAction, node: NodeId): Promise<holdfast.v1.DirectScrubReply.$Properties> {
    return this.#leading().scrub.direct(action, node)
  }

  leads(): boolean {
    return this.#leadership !== undefined
  }

  storageVersions(): readonly { readonly id: NodeId; readonly versionMax: number }[] {
    return this.#leadership?.storageVersions() ?? []
  }

  heldBack(): number {
    return this.#leadership?.heldBack() ?? 0
  }

  stop(): Promise<void> {
    this.#stopped = true
    this.resign()
    return Promise.resolve()
  }

  #leading(): Leadership {
    if (this.#leadership === undefined) throw notLeader(this.#deps.replicator)
    return this.#leadership
  }
}
