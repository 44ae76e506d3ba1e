/** The Raft service of a meta node on the network: who am I, join, messages, snapshots. Not for clients. */

import type { StoreError } from '../../model/errors.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Env } from '../../ports/env.ts'
import type { NetServer } from '../../ports/net.ts'
import type { SnapshotOffer } from '../../core/raft/messages.ts'
import { raftMethods } from '../../wire/methods.ts'
import type { holdfast } from '../../wire/messages.ts'
import type { Formation } from './formation.ts'
import type { Running } from './raft-running.ts'
import { receiveSnapshot } from './snapshot-transfer.ts'

/** What the service needs of the replicator. */
export interface ServiceHost {
  readonly env: Env
  readonly formation: Formation
  /** Aborts when the node stops. */
  readonly signal: AbortSignal
  running(): Running | undefined
  /** Why there is nothing to talk to. */
  notRunning(): StoreError
}

export function bindRaft(server: NetServer, host: ServiceHost): void {
  server.unary(raftMethods.hello, async (request) => answerHello(host, request))
  server.unary(raftMethods.form, (request) => host.formation.onForm(request))
  server.stream(raftMethods.messages, (stream) => {
    const running = host.running()
    if (running === undefined) stream.destroy(host.notRunning())
    else running.transport.accept(stream)
  })
  server.stream(raftMethods.snapshot, (stream) => {
    const running = host.running()
    if (running === undefined) {
      stream.destroy(host.notRunning())
      return
    }
    const receiver = {
      self: running.self,
      incarnationOf: (id: NodeId) => running.memberOf(id)?.incarnation,
      configIndex: () => running.core.config.index,
      install: (offer: SnapshotOffer, pieces: AsyncIterable<Uint8Array>) => running.snapshots.install(offer, pieces),
    }
    receiveSnapshot(host.env, receiver, stream, host.signal)
  })
}

/** Says who this node is; a leader also looks whether the member that asks is reached elsewhere now. */
function answerHello(host: ServiceHost, request: holdfast.v1.HelloRequest): holdfast.v1.HelloReply.$Properties {
  const running = host.running()
  if (running === undefined) return host.formation.onHello(undefined)
  const { core, self, members } = running
  const sameCluster =
    request.clusterId === self.clusterId && (request.clusterIncarnation || 1) === self.clusterIncarnation
  if (sameCluster && running.memberOf(request.from)?.incarnation === request.incarnation) {
    const { from: id, addresses } = request
    const claim = members.claim(id, addresses, (address) => host.formation.hello({ id, address }))
    // Whoever asks does not wait for it. What can fail there is a broken invariant of the core, which ends the node anyway.
    claim.catch(() => undefined)
  }
  const { index, config } = core.log.configAt(core.view.commit)
  const empty = core.log.lastIndex === 0
  return host.formation.onHello({ members: config.members, configIndex: index, empty })
}
