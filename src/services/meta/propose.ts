/**
 * From a call to its place in the log: who may propose, what may be proposed, and what the answer means.
 *
 * A call of a client session is wrapped with its number, so that the log carries it out once (docs/RULES.md, rule 14).
 */

import { type Command, encodeCommand, type Reply } from '../../core/meta/commands.ts'
import { isStoreError, StoreError } from '../../model/errors.ts'
import { hexId, safeCounter } from '../../wire/checks.ts'
import type { holdfast } from '../../wire/messages.ts'
import type { HandlerDeps } from './handlers.ts'
import { checkProposal } from './proposals.ts'
import type { MetaQueries } from './queries.ts'
import { bucketNotFound } from './suggest.ts'
import type { Replicator } from './types.ts'

export type Accepted = Extract<Reply, { ok: true }>

/** What a write needs of the node. */
export type WriteDeps = Pick<HandlerDeps, 'replicator' | 'machine' | 'control'>

/** A call's place in its client session. */
export interface Ticket {
  readonly session: string
  readonly sequence: number
  readonly lowest: number
}

/** The ticket of a request on the Session stream; undefined when it has none. */
export function ticketOf(request: holdfast.v1.MetaRequest): Ticket | undefined {
  if (request.session === '') return undefined
  return {
    session: hexId(request.session, 'session'),
    sequence: safeCounter(request.sequence, 'sequence'),
    lowest: safeCounter(request.lowest, 'lowest'),
  }
}

/** Refused here, before anything is asked of the log, when this node does not lead. */
export function mustLead(deps: Pick<WriteDeps, 'replicator' | 'control'>): void {
  if (deps.control.leads()) return
  const status = deps.replicator.status()
  if (status.role !== 'leader') throw notLeader(status.leaderAddresses)
}

function notLeader(leader: readonly string[]): StoreError {
  const where = leader.length > 0 ? `ask ${leader[0]}` : 'no leader is known yet; try again'
  return new StoreError('NOT_LEADER', `this meta node does not lead: ${where}`, { details: { leader } })
}

/** A NOT_LEADER that does not say where the leader is, told anew with what is known now. */
export function withLeader(replicator: Pick<Replicator, 'status'>, error: unknown): unknown {
  if (!isStoreError(error) || error.code !== 'NOT_LEADER' || error.details.leader?.length) return error
  return notLeader(replicator.status().leaderAddresses)
}

/** Proposes a command and resolves with its reply; a refusal rejects. */
export async function proposeTo(deps: WriteDeps, command: Command, ticket?: Ticket): Promise<Accepted> {
  mustLead(deps)
  const cluster = deps.machine.cluster()
  const rules = {
    version: cluster?.version,
    lowSpace: deps.replicator.lowSpace(),
    told: cluster?.incarnation ?? 1,
    own: deps.replicator.clusterIncarnation(),
  }
  checkProposal(command, rules)
  let logged = command
  if (ticket !== undefined) {
    // The time is that of the call as a whole: a repeated one carries the same body.
    const body = encodeCommand({ ...command, nowMs: 0 })
    logged = { kind: 'inSession', nowMs: command.nowMs, ...ticket, body }
    checkProposal(logged, rules)
  }
  let reply: Reply
  try {
    reply = await deps.replicator.propose(encodeCommand(logged))
  } catch (error) {
    throw withLeader(deps.replicator, error)
  }
  if (reply.ok) return reply
  if (reply.code === 'NOT_FOUND') await suggestBucket(deps.machine.queries, command)
  // Of a session that is gone nobody knows what its calls did.
  if (reply.code === 'SESSION_EXPIRED') throw new StoreError(reply.code, reply.message)
  throw new StoreError(reply.code, reply.message, { outcome: 'definite' })
}

/** When a bucket was what was not found, says so with a close name. */
async function suggestBucket(queries: MetaQueries, command: Command): Promise<void> {
  for (const name of new Set(bucketsNamed(command))) {
    if ((await queries.bucket(name)) === undefined) throw await bucketNotFound(queries, name)
  }
}

function bucketsNamed(command: Command): readonly string[] {
  if (command.kind === 'deleteBucket') return [command.name]
  if (command.kind === 'setQuota') return [command.bucket]
  if (command.kind !== 'commit') return []
  return command.operations.flatMap((one) => (one.kind === 'copy' ? [one.fromBucket, one.bucket] : [one.bucket]))
}

export async function finish(written: Promise<Accepted>): Promise<holdfast.v1.Empty.$Properties> {
  await written
  return {}
}

export function unexpected(reply: Accepted): StoreError {
  return new StoreError('INTERNAL', `a command answered ${reply.kind}: this is a bug`)
}
