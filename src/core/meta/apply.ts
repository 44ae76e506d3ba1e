/**
 * The metadata state machine: `applyEntry` carries out one committed command on a view of the state.
 *
 * Pure and synchronous: what it does follows from the state and the entry alone, so every replica does the same. A command
 * happens whole or not at all; a refusal is an answer, and moves nothing but the applied index and the clamped time.
 * Anything else that is thrown is a broken invariant and ends the process.
 */

import { unreachable } from '../../base/assert.ts'
import { SchemaError } from '../../base/schema.ts'
import { type ErrorCode, isStoreError } from '../../model/errors.ts'
import { unpinChunk } from './chunks.ts'
import { found, raiseVersion, recovered, reserveChunkIds, resumeDeletes } from './cluster.ts'
import { type Command, decodeCommand, type Effect, type Reply, versionOf } from './commands.ts'
import { expireLease, forgetLease, grantLease, renewLease } from './leases.ts'
import { abortUpload, dropPage, stagePage } from './manifests.ts'
import { commit, commitChunks, createBucket, deleteBucket } from './namespace.ts'
import { diskState, nodeDown, reconciled, registerNode, setMode } from './nodes.ts'
import { setQuota } from './quotas.ts'
import { demand, refuse } from './refuse.ts'
import { decodeReply, encodeReply, isSessionCommand, type SessionCommand } from './replies.ts'
import { changeReplicas, deleted, reclaim, trim } from './replicas.ts'
import { closeSession, expireSessions, findCall, keepSession, openSession, settleCall } from './sessions.ts'
import { type StateView, Transaction } from './view.ts'

/** Where an entry stands in the log. */
interface EntryPosition {
  readonly index: number
  readonly term: number
}

/** What a command answered, and what it means for the controllers. */
export interface Applied {
  readonly reply: Reply
  readonly effects: readonly Effect[]
}

const done: Reply = { ok: true, kind: 'done' }

/** Applies one command to the view. */
export function applyEntry(view: StateView, entry: EntryPosition, command: Command): Applied {
  const { nowMs } = command
  try {
    if (command.kind === 'inSession') return applyInSession(view, entry, command)
    const tx = new Transaction(view, entry.index, entry.term, nowMs)
    const reply = carryOut(tx, command)
    tx.commit()
    return { reply, effects: tx.effects }
  } catch (error) {
    if (!isStoreError(error)) throw error
    view.pass(entry.index, entry.term, nowMs)
    return { reply: refusal(error), effects: [] }
  }
}

const passingRefusals: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['OVERLOADED', 'NO_SPACE'])

function refusal(error: { code: Extract<Reply, { ok: false }>['code']; message: string }): Reply {
  return { ok: false, code: error.code, message: error.message }
}

/** Carries out a call of a client session once; the session and the reply are written even when the call is refused. */
function applyInSession(view: StateView, entry: EntryPosition, body: Extract<Command, { kind: 'inSession' }>): Applied {
  const begin = (): Transaction => new Transaction(view, entry.index, entry.term, body.nowMs)
  let tx = begin()
  checkVersion(tx, body)
  const command = sessionCommand(body.body)
  const { session, known } = findCall(tx, body)
  if (known !== undefined) {
    const reply = decodeReply(known, command)
    settleCall(tx, body, session)
    tx.commit()
    return { reply, effects: [] }
  }
  let reply: Reply
  try {
    reply = carryOut(tx, command)
  } catch (error) {
    if (!isStoreError(error)) throw error
    reply = refusal(error)
    tx = begin()
  }
  // Nothing was carried out, and a later try may go well: such a refusal is no answer to keep.
  const passing = !reply.ok && passingRefusals.has(reply.code)
  settleCall(tx, body, session, passing ? undefined : encodeReply(command, reply))
  tx.commit()
  return { reply, effects: tx.effects }
}

/** The command that a session carries. The leader encoded it, so anything else is refused and not believed. */
function sessionCommand(body: Uint8Array): SessionCommand {
  let command: Command
  try {
    command = decodeCommand(body)
  } catch (error) {
    if (!(error instanceof SchemaError)) throw error
    return refuse('INVALID_ARGUMENT', 'the call of the session is no command: send it again')
  }
  demand(isSessionCommand(command), `a session does not carry ${command.kind}: call it without one`)
  return command
}

/** Applies an entry that holds no command: a leader's first, or a change of configuration. */
export function applyNothing(view: StateView, entry: EntryPosition): Applied {
  view.pass(entry.index, entry.term, 0)
  return { reply: done, effects: [] }
}

/** The leader proposes nothing above the version in force; here it is certain. */
function checkVersion(tx: Transaction, command: Command): void {
  const { version, incarnation } = tx.cluster()
  const needed = versionOf(command.kind, incarnation > 1)
  if (version < needed) {
    refuse(
      'INCOMPATIBLE_VERSION',
      `the cluster runs version ${version}, ${command.kind} needs ${needed}: raise it first`,
    )
  }
}

function carryOut(tx: Transaction, command: Command): Reply {
  if (command.kind === 'found') {
    found(tx, command)
    return done
  }
  checkVersion(tx, command)
  switch (command.kind) {
    case 'createBucket':
      return createBucket(tx, command.name, command.commitId)
    case 'grantLease':
      return grantLease(tx, command.ttlMs)
    case 'renewLease':
      return renewLease(tx, command.id, command.ttlMs)
    case 'commit':
      return commit(tx, command)
    case 'commitChunks':
      return commitChunks(tx, command)
    case 'registerNode':
      return registerNode(tx, command)
    case 'openSession':
      return openSession(tx, command.session, command.ttlMs)
    default:
      carryOutQuietly(tx, command)
      return done
  }
}

type Answering =
  | 'found'
  | 'createBucket'
  | 'grantLease'
  | 'renewLease'
  | 'commit'
  | 'commitChunks'
  | 'registerNode'
  | 'openSession'

type Quiet = Exclude<Command, { kind: Answering }>

type ClusterKind =
  | 'raiseVersion'
  | 'setQuota'
  | 'keepSession'
  | 'closeSession'
  | 'expireSessions'
  | 'recovered'
  | 'reserveChunkIds'
  | 'resumeDeletes'
  | 'inSession'

/** Commands with nothing to tell but that they are done. */
function carryOutQuietly(tx: Transaction, command: Quiet): void {
  switch (command.kind) {
    case 'deleteBucket':
      return deleteBucket(tx, command.name)
    case 'expireLease':
      return expireLease(tx, command.id)
    case 'forgetLease':
      return forgetLease(tx, command.id)
    case 'stagePage':
      return stagePage(tx, command)
    case 'unpinChunk':
      return unpinChunk(tx, command.chunk)
    case 'abortUpload':
      return abortUpload(tx, command.manifest)
    case 'dropPage':
      return dropPage(tx, command.manifest, command.page)
    case 'reclaim':
      return reclaim(tx, command.graceMs, command.chunks)
    case 'deleted':
      return deleted(tx, command.disk, command.generation, command.chunks)
    case 'trim':
      return trim(tx, command)
    case 'nodeDown':
      return nodeDown(tx, command.node, command.incarnation)
    case 'diskState':
      return diskState(tx, command.disk, command.generation, command.state)
    case 'reconciled':
      return reconciled(tx, command.disk, command.generation)
    case 'replicas':
      return changeReplicas(tx, command.changes)
    case 'setMode':
      return setMode(tx, command.node, command.mode)
    default:
      return carryOutForCluster(tx, command)
  }
}

/** Commands of the cluster as a whole and of its client sessions. */
function carryOutForCluster(tx: Transaction, command: Extract<Quiet, { kind: ClusterKind }>): void {
  switch (command.kind) {
    case 'raiseVersion':
      return raiseVersion(tx, command.version)
    case 'setQuota':
      return setQuota(tx, command)
    case 'keepSession':
      return keepSession(tx, command.session)
    case 'closeSession':
      return closeSession(tx, command.session)
    case 'expireSessions':
      return expireSessions(tx, command.sessions)
    case 'recovered':
      return recovered(tx, command.incarnation)
    case 'reserveChunkIds':
      return reserveChunkIds(tx, command.above)
    case 'resumeDeletes':
      return resumeDeletes(tx)
    case 'inSession':
      return refuse('INVALID_ARGUMENT', 'a session does not carry a call of a session')
    default:
      unreachable(command)
  }
}
