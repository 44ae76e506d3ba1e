/**
 * From what is on disk to what the Raft core starts with: creates the log of a newly formed node, verifies the log and
 * hard state of an old one, finishes or undoes a snapshot install that a crash interrupted.
 *
 * Every check here refuses rather than repairs: a node that starts with less than it acknowledged could vote or lead
 * where it must not.
 */

import { StoreError } from '../../model/errors.ts'
import { termMax } from '../../model/fence.ts'
import { encodeConfig } from '../../core/raft/messages.ts'
import type { HardState, RaftOptions } from '../../core/raft/types.ts'
import type { Formation } from './formation.ts'
import { HardStateSlots } from './hard-state.ts'
import { type Identity, type LogFormat, logFormats } from './identity.ts'
import { logName, moveLog, type NodeStores, openPlace } from './log-place.ts'
import type { LogPlace, RaftLog, RecoveredLog } from './log-types.ts'

/** What a boot needs of the formation: who this node is, and how far its making has come. */
type Formed = Pick<Formation, 'identity' | 'markReady'>

export interface Booted {
  readonly store: RaftLog
  readonly slots: HardStateSlots
  readonly start: Pick<
    RaftOptions,
    'hardState' | 'base' | 'termRuns' | 'lastIndex' | 'configs' | 'tail' | 'commit' | 'applied'
  >
  /** Entries of a torn tail that were cut off at this start. */
  readonly cut: number
  /** The log was moved into segment files at this start. */
  readonly moved: boolean
}

/**
 * Opens everything below the core. `durableIndex` is that of the state machine; undefined for a witness, which has no
 * state: there everything that the log knows to be committed counts as applied. `format` is how a log is stored from now
 * on; an old one stays as it is unless it is LevelDB's and segments are asked for. Closes the log again when it throws.
 */
export async function bootRaft(
  stores: NodeStores,
  formation: Formed,
  durableIndex: number | undefined,
  cacheBytes: number,
  format: LogFormat,
): Promise<Booted> {
  const { identity } = formation
  if (identity === undefined || identity.clusterId === '') throw lost('the node was not formed')
  const stored = identity.ready ? (identity.log as LogFormat) : format
  let place = await openPlace(stores, stored)
  try {
    const slots = await prepare(stores, formation, identity, place, stored)
    let opened = await openVerified(place, slots, durableIndex, cacheBytes)
    const moved = stored === logFormats.level && format === logFormats.segments
    if (moved) {
      place = await moveLog(stores, place, opened, () => formation.markReady(format))
      opened = await openVerified(place, slots, durableIndex, cacheBytes)
    }
    if (moved || stored === logFormats.segments) await stores.kv.destroy(logName)
    const { store, recovered, hardState } = opened
    const { base, termRuns, lastIndex, configs, tail, cut } = recovered
    const second = recovered.hardState
    // A crash came between the two copies. Nothing is said before both know: one slot may yet be lost.
    if (second.term !== hardState.term || second.vote !== hardState.vote) {
      await store.note(hardState, recovered.commit, true)
    }
    // Entry 1 is the same on every member by construction, so it is committed from the start.
    const commit = Math.max(recovered.commit, durableIndex ?? 0, base.index, Math.min(1, lastIndex))
    const applied = durableIndex ?? commit
    const start = { hardState, base, termRuns, lastIndex, configs, tail, commit, applied }
    return { store, slots, start, cut, moved }
  } catch (error) {
    await place.close()
    throw error
  }
}

/** Opens the log, settles an install that a crash interrupted, and checks log, hard state and state against each other. */
export async function openVerified(
  place: LogPlace,
  slots: HardStateSlots,
  durableIndex: number | undefined,
  cacheBytes: number,
): Promise<{ store: RaftLog; recovered: RecoveredLog; hardState: HardState }> {
  const hardState = slots.value
  if (hardState === undefined) throw lost('the term and vote of this node are gone')
  let opened = await place.open(cacheBytes)
  const { installing } = opened.recovered
  if (installing !== undefined) {
    // A witness takes a snapshot by noting it, so the log is all there is to bring forward.
    await settleInstall(opened, installing, durableIndex ?? installing.index)
    opened = await place.open(cacheBytes)
  }
  const { store, recovered } = opened
  check(recovered, hardState, durableIndex ?? Math.max(recovered.base.index, recovered.commit))
  return { store, recovered, hardState }
}

/** Creates log and hard state once, between formation and the first start; finds both ever after. */
async function prepare(
  stores: NodeStores,
  formation: Formed,
  identity: Identity,
  place: LogPlace,
  format: LogFormat,
): Promise<HardStateSlots> {
  const slots = await HardStateSlots.open(stores.files, identity)
  if (identity.ready) {
    if (await place.isEmpty()) throw lost('the raft log of this node is gone')
    return slots
  }
  // Whatever an earlier attempt has left: nothing was said on it yet.
  const { config, joined } = identity
  const first = { index: 1, term: 1, type: 'config', payload: encodeConfig(config) } as const
  await place.create(config, joined ? undefined : first)
  if (slots.value === undefined) await slots.save({ term: joined ? 0 : 1, vote: '' })
  await formation.markReady(format)
  return slots
}

/** A crash hit a snapshot install: the state machine says whether it had been replaced. */
async function settleInstall(
  opened: { store: RaftLog; recovered: RecoveredLog },
  mark: NonNullable<RecoveredLog['installing']>,
  appliedIndex: number,
): Promise<void> {
  const { store, recovered } = opened
  if (appliedIndex < mark.index) {
    await store.cancelInstall()
    return
  }
  const { base, termRuns, lastIndex } = recovered
  const run = termRuns.findLast((item) => item.first <= mark.index)
  const inLog = mark.index > base.index && mark.index <= lastIndex
  await store.finishInstall(mark, inLog && run?.term === mark.term)
}

function check(recovered: RecoveredLog, hard: HardState, appliedIndex: number): void {
  const second = recovered.hardState
  const ahead =
    second.term > hard.term || (second.term === hard.term && second.vote !== '' && second.vote !== hard.vote)
  if (hard.term > termMax) throw lost(`the hard state is of term ${hard.term}, which no cluster reaches`)
  if (ahead) throw lost(`the log knows of term ${second.term} and the hard state only of term ${hard.term}`)
  const lastTerm = recovered.termRuns.at(-1)?.term ?? recovered.base.term
  if (lastTerm > hard.term) throw lost(`the log ends in term ${lastTerm} and the hard state is of term ${hard.term}`)
  if (recovered.commit > recovered.lastIndex) {
    throw lost(`entries ${recovered.lastIndex + 1} to ${recovered.commit} were committed and are gone from the log`)
  }
  if (appliedIndex > recovered.lastIndex) {
    throw lost(`the state is at entry ${appliedIndex} and the log ends at ${recovered.lastIndex}`)
  }
  if (appliedIndex < recovered.base.index) {
    throw lost(`the state is at entry ${appliedIndex} and the log begins after ${recovered.base.index}`)
  }
}

function lost(why: string): StoreError {
  return new StoreError('DATA_LOST', `open raft: ${why}: remove this member and add it again with an empty directory`)
}
