/**
 * The shape of calls to the metadata service, and the way each kind goes: to the leader, inside the client's session, or
 * to any node.
 */

import type { StoreError } from '../model/errors.ts'
import type { holdfast } from '../wire/messages.ts'
import type { SessionCall } from '../wire/methods.ts'

export type MetaRequestOf<K extends SessionCall> = NonNullable<holdfast.v1.MetaRequest.$Properties[K]>
export type MetaReplyOf<K extends SessionCall> = NonNullable<holdfast.v1.MetaReply[K]>

/** What makes a call happen once: its session, its number there, and the lowest number that still waits for an answer. */
export interface Ticket {
  readonly session: string
  readonly sequence: number
  readonly lowest: number
}

export interface MetaCallOptions<K extends SessionCall> {
  readonly signal: AbortSignal
  /**
   * Called when the call is refused and an earlier attempt may have been carried out: the reply that the refusal stands
   * for (a bucket that is gone was deleted), or undefined to throw it with an unknown outcome.
   */
  readonly afterUnknown?: (error: StoreError) => MetaReplyOf<K> | undefined
  /** Silence after which one attempt is given up, for calls that take longer than most. */
  readonly attemptMs?: number
  /** True for failures that no other attempt shall try to overcome. */
  readonly final?: (error: StoreError) => boolean
  /** Asked for at every attempt of a call in a session. */
  readonly ticket?: () => Ticket
}

/** Whatever carries calls. */
export interface MetaCaller {
  /** Makes one call and gives its answer. Rejects with a StoreError. */
  call<K extends SessionCall>(kind: K, request: MetaRequestOf<K>, options: MetaCallOptions<K>): Promise<MetaReplyOf<K>>
}

/** Calls that change something and have no commit id of their own that would make them happen once. */
const onceKinds: ReadonlySet<SessionCall> = new Set<SessionCall>([
  'createBucket',
  'deleteBucket',
  'grantLease',
  'renewLease',
  'releaseLease',
  'unpinChunk',
  'setQuota',
])

const readKinds: ReadonlySet<SessionCall> = new Set<SessionCall>([
  'openObject',
  'manifestPage',
  'listObjects',
  'listBuckets',
  'statChunk',
])

/**
 * True for commits that the state of a key can refuse. A commit id makes a commit happen once but keeps no refusals: in a
 * session a repeated one is told which it was.
 */
function isRefusable(request: holdfast.v1.CommitRequest.$Properties): boolean {
  return (request.operations ?? []).some(
    ({ put }) => put === null || put === undefined || put.condition?.ifAbsent === true || put.condition?.ifMatch !== '',
  )
}

/** Sends each call the way of its kind; what has no way of its own goes to the leader. */
export function routeCalls(ways: {
  readonly leader: MetaCaller
  readonly once?: MetaCaller | undefined
  readonly reads?: MetaCaller | undefined
}): MetaCaller {
  const { leader, once = leader, reads = leader } = ways
  return {
    call: (kind, request, options) => {
      const isOnce = onceKinds.has(kind) || (kind === 'commit' && isRefusable(request))
      const way = isOnce ? once : readKinds.has(kind) ? reads : leader
      return way.call(kind, request, options)
    },
  }
}
