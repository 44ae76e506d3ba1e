/**
 * The metadata state machine: `applyEntry` carries out one committed command on a view of the state.
 *
 * Pure and synchronous: what it does follows from the state and the entry alone, so every replica does the same. A command
 * happens whole or not at all; a refusal is an answer, and moves nothing but the applied index and the clamped time.
 * Anything else that is thrown is a broken invariant and ends the process.
 */

import { unreachable } from '../../base/assert.ts'
import { isStoreError } from '../../model/errors.ts'
import { unpinChunk } from './chunks.ts'
import type { Command, Effect, Reply } from './commands.ts'
import { keys } from './keys.ts'
import { expireLease, forgetLease, grantLease, renewLease } from './leases.ts'
import { abortUpload, dropPage, stagePage } from './manifests.ts'
import { commit, commitChunks, createBucket, deleteBucket } from './namespace.ts'
import { diskState, nodeDown, reconciled, registerNode, setMode } from './nodes.ts'
import { clusterRecord } from './records.ts'
import { refuse } from './refuse.ts'
import { changeReplicas, deleted, reclaim, trim } from './replicas.ts'
import { type StateView, Transaction } from './view.ts'

/** Small numbers are never chunk ids, so that a mistaken counter is not taken for one. */
const firstChunkId: number = 1 << 16

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
  const tx = new Transaction(view, entry.index, entry.term, command.nowMs)
  try {
    const reply = carryOut(tx, command)
    tx.commit()
    return { reply, effects: tx.effects }
  } catch (error) {
    if (!isStoreError(error)) throw error
    view.pass(entry.index, entry.term, command.nowMs)
    return { reply: { ok: false, code: error.code, message: error.message }, effects: [] }
  }
}

/** Applies an entry that holds no command: a leader's first, or a change of configuration. */
export function applyNothing(view: StateView, entry: EntryPosition): Applied {
  view.pass(entry.index, entry.term, 0)
  return { reply: done, effects: [] }
}

function carryOut(tx: Transaction, command: Command): Reply {
  if (command.kind === 'found') return found(tx, command)
  tx.cluster()
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
    default:
      carryOutQuietly(tx, command)
      return done
  }
}

type Answering = 'found' | 'createBucket' | 'grantLease' | 'renewLease' | 'commit' | 'commitChunks' | 'registerNode'

/** Commands with nothing to tell but that they are done. */
function carryOutQuietly(tx: Transaction, command: Exclude<Command, { kind: Answering }>): void {
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
    case 'raiseVersion':
    case 'setQuota':
    case 'openSession':
    case 'keepSession':
    case 'closeSession':
    case 'expireSessions':
    case 'inSession':
    case 'recovered':
    case 'reserveChunkIds':
    case 'resumeDeletes':
      return refuse('INVALID_ARGUMENT', `${command.kind} is not built yet`)
    default:
      unreachable(command)
  }
}

function found(tx: Transaction, command: Extract<Command, { kind: 'found' }>): Reply {
  if (tx.get(keys.cluster(), clusterRecord) !== undefined) return done
  tx.put(keys.cluster(), clusterRecord, {
    clusterId: command.clusterId,
    incarnation: 1,
    version: command.version,
    nextChunk: firstChunkId,
    nextDisk: 1,
    nextBucket: 1,
    buckets: 0,
  })
  return done
}
