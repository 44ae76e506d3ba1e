/**
 * Calls about the cluster itself: quotas, members of the meta group, versions, physical deletes.
 *
 * Members and versions are the replicator's and the controllers' business; what is checked here is what an operator must
 * be told before anything is changed. A call that takes long answers before its caller gives up, and goes on behind.
 */

import { bucketsMax } from '../../core/meta/namespace.ts'
import { isAddress } from '../../model/address.ts'
import { StoreError } from '../../model/errors.ts'
import { isNodeId } from '../../model/ids.ts'
import { quote } from '../../model/names.ts'
import { newestVersion } from '../../model/version.ts'
import { nameOf, safeCounter } from '../../wire/checks.ts'
import type { holdfast } from '../../wire/messages.ts'
import { scrubActions } from './control/scrub-control.ts'
import type { Call, HandlerDeps } from './handlers.ts'
import { finish, mustLead, proposeTo } from './propose.ts'
import { toSetQuota } from './requests.ts'
import { membersStatus } from './status.ts'

export interface AdminCalls {
  setQuota: Call<'SetQuotaRequest', 'Empty'>
  listQuotas: Call<'Empty', 'ListQuotasReply'>
  addMetaMember: Call<'AddMetaMemberRequest', 'MetaMembersReply'>
  removeMetaMember: Call<'RemoveMetaMemberRequest', 'MetaMembersReply'>
  transferLeadership: Call<'TransferLeadershipRequest', 'TransferLeadershipReply'>
  versionStatus: Call<'Empty', 'VersionStatusReply'>
  raiseVersion: Call<'RaiseVersionRequest', 'VersionStatusReply'>
  deletesStatus: Call<'Empty', 'DeletesStatusReply'>
  resumeDeletes: Call<'Empty', 'DeletesStatusReply'>
  scrubStatus: Call<'Empty', 'ScrubStatusReply'>
  directScrub: Call<'DirectScrubRequest', 'DirectScrubReply'>
}

/** A caller waits this long for a change of members; the change itself goes on. */
const memberChangeMs = 40_000

export function createAdminCalls(deps: HandlerDeps): AdminCalls {
  const now = (): number => deps.env.clock.wallMs()
  return {
    setQuota: (request, ticket) => finish(proposeTo(deps, toSetQuota(request, now()), ticket)),
    listQuotas: () => listQuotas(deps),
    addMetaMember: (request) => addMember(deps, request),
    removeMetaMember: (request) => removeMember(deps, request),
    transferLeadership: (request) => transfer(deps, request),
    versionStatus: async () => {
      mustLead(deps)
      return versionStatus(deps)
    },
    raiseVersion: (request) => raiseVersion(deps, request),
    deletesStatus: async () => {
      mustLead(deps)
      return deletesStatus(deps)
    },
    resumeDeletes: async (_request, ticket) => {
      await proposeTo(deps, { kind: 'resumeDeletes', nowMs: now() }, ticket)
      return deletesStatus(deps)
    },
    scrubStatus: async () => {
      mustLead(deps)
      return deps.control.scrubStatus()
    },
    directScrub: async (request) => {
      if (request.node !== '') checkNode(request.node, 'node')
      mustLead(deps)
      return deps.control.directScrub(nameOf(request.action, scrubActions, 'action'), request.node)
    },
  }
}

async function listQuotas(deps: HandlerDeps): Promise<holdfast.v1.ListQuotasReply.$Properties> {
  mustLead(deps)
  await deps.replicator.barrier()
  const image = await deps.machine.snapshotQueries()
  try {
    const [cluster, applied, buckets] = [
      await image.cluster(),
      await image.applied(),
      await image.buckets('', bucketsMax),
    ]
    const quota = (
      bucket: string,
      from: Omit<holdfast.v1.Quota.$Properties, 'bucket'>,
    ): holdfast.v1.Quota.$Properties => {
      const { bytesMax = 0, objectsMax = 0, bytes = 0, objects = 0 } = from
      return { bucket, bytesMax, objectsMax, bytes, objects }
    }
    const bounded = buckets.filter(({ record }) => record.bytesMax > 0 || record.objectsMax > 0)
    const totals = { bytes: applied?.bytes ?? 0, objects: applied?.objects ?? 0 }
    const bounds = { bytesMax: cluster?.bytesMax ?? 0, objectsMax: cluster?.objectsMax ?? 0 }
    return { quotas: [quota('', { ...bounds, ...totals }), ...bounded.map(({ name, record }) => quota(name, record))] }
  } finally {
    await image.close()
  }
}

function checkNode(id: string, field: string): void {
  if (isNodeId(id)) return
  throw new StoreError(
    'INVALID_ARGUMENT',
    `field ${field} ${quote(id)} is not a node id: use a-z, 0-9, ".", "_" and "-"`,
  )
}

async function addMember(
  deps: HandlerDeps,
  request: holdfast.v1.AddMetaMemberRequest,
): Promise<holdfast.v1.MetaMembersReply.$Properties> {
  const { id, address } = request
  checkNode(id, 'id')
  if (!isAddress(address)) {
    throw new StoreError('INVALID_ARGUMENT', `field address ${quote(address)} is not host:port`)
  }
  mustLead(deps)
  const counts = await within(deps, deps.replicator.addMember(id, address), false)
  return { members: membersStatus(deps.replicator.status()), catchingUp: !counts }
}

async function removeMember(
  deps: HandlerDeps,
  request: holdfast.v1.RemoveMetaMemberRequest,
): Promise<holdfast.v1.MetaMembersReply.$Properties> {
  const { id, force } = request
  checkNode(id, 'id')
  mustLead(deps)
  const { peers } = deps.replicator.status()
  const doing = `remove meta node ${id}`
  const leaving = peers.find((peer) => peer.id === id)
  if (leaving === undefined) {
    throw new StoreError('NOT_FOUND', `${doing}: it is no member: "holdfast meta ls" lists them`)
  }
  const voting = peers.filter((peer) => peer.role !== 'learner' && peer.id !== id)
  if (leaving.role !== 'learner' && voting.length < 3 && !force) {
    throw new StoreError(
      'CONDITION_FAILED',
      `${doing}: the remaining ${voting.length} could not lose one more: add another first, or use --force`,
    )
  }
  const late = new StoreError('TIMEOUT', `${doing}: not decided yet: "holdfast meta ls" shows how it stands`)
  await within(deps, deps.replicator.removeMember(id), late)
  return { members: membersStatus(deps.replicator.status()), catchingUp: false }
}

/** What `change` resolves with; after the time a caller waits, `late`, which is thrown when it is an error. */
function within<T>(deps: HandlerDeps, change: Promise<T>, late: T | StoreError): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = deps.env.clock.after(memberChangeMs, () => {
      if (late instanceof StoreError) reject(late)
      else resolve(late)
    })
    change.then(resolve, reject).finally(() => timer.cancel())
  })
}

async function transfer(
  deps: HandlerDeps,
  request: holdfast.v1.TransferLeadershipRequest,
): Promise<holdfast.v1.TransferLeadershipReply.$Properties> {
  const { to } = request
  if (to !== '') checkNode(to, 'to')
  mustLead(deps)
  const startedMs = deps.env.clock.monotonicMs()
  const leader = await deps.replicator.transfer(to === '' ? undefined : to)
  return { leader, tookMs: Math.round(deps.env.clock.monotonicMs() - startedMs) }
}

function versionStatus(deps: HandlerDeps): holdfast.v1.VersionStatusReply.$Properties {
  const meta = deps.replicator.status().peers.map(({ id, versionMax }) => ({ id, kind: 'meta', versionMax }))
  const storage = deps.control.storageVersions().map(({ id, versionMax }) => ({ id, kind: 'storage', versionMax }))
  const nodes = [...meta, ...storage]
  const possible = Math.min(newestVersion, ...nodes.map((node) => node.versionMax))
  return { version: deps.machine.cluster()?.version ?? 0, possible, nodes }
}

async function raiseVersion(
  deps: HandlerDeps,
  request: holdfast.v1.RaiseVersionRequest,
): Promise<holdfast.v1.VersionStatusReply.$Properties> {
  const wanted = safeCounter(request.version, 'version')
  mustLead(deps)
  const status = versionStatus(deps)
  const version = wanted === 0 ? newestVersion : wanted
  const doing = `raise the cluster version to ${version}`
  if (version > newestVersion) {
    throw new StoreError('INVALID_ARGUMENT', `${doing}: this program knows up to ${newestVersion}`)
  }
  if (version <= (status.version ?? 0)) return status
  const old = (status.nodes ?? []).filter((node) => (node.versionMax ?? 0) < version)
  if (old.length > 0) {
    const named = old.map(({ id, kind, versionMax }) =>
      versionMax === 0 ? `${kind} ${id} was not heard of` : `${kind} ${id} supports ${versionMax}`,
    )
    throw new StoreError('CONDITION_FAILED', `${doing}: ${named.join(', ')}: start and upgrade every node first`)
  }
  await proposeTo(deps, { kind: 'raiseVersion', nowMs: deps.env.clock.wallMs(), version })
  return versionStatus(deps)
}

function deletesStatus(deps: HandlerDeps): holdfast.v1.DeletesStatusReply.$Properties {
  const cluster = deps.machine.cluster()
  const own = deps.replicator.clusterIncarnation()
  const incarnation = Math.max(own, cluster?.incarnation ?? 1)
  const held = cluster?.deletesHeld === true || own > (cluster?.incarnation ?? 1)
  return { held, incarnation, unknownReplicas: deps.control.heldBack() }
}
