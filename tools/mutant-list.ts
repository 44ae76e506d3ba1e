/**
 * The mutants: each is the built program with one safety rule taken out, as a change of text in the compiled code. They
 * exist only in the copies that `npm run mutants` makes.
 */

/** Who has to find a mutant: seeds of the Raft simulator, seeds of the whole cluster, or one test file. */
export type Finder =
  /** `scenario`: a file of test/sim/raft/seeds, for what random runs meet too seldom. */
  | { readonly by: 'raft'; readonly scenario?: string }
  /** `faults`: the only ones, where others would hide what the rule is for. */
  | { readonly by: 'cluster'; readonly faults?: string }
  | { readonly by: 'test'; readonly file: string }

export interface Mutant {
  readonly name: string
  /** Below the build's src folder. */
  readonly file: string
  /** Each text must be there once; what it becomes. */
  readonly edits: readonly (readonly [from: string, to: string])[]
  readonly finder: Finder
}

const raft: Finder = { by: 'raft' }
const scenario = (name: string): Finder => ({ by: 'raft', scenario: `test/sim/raft/seeds/${name}.json` })
const lanes: Finder = { by: 'test', file: 'test/sim/raft/lanes.test.js' }
const replicationTest: Finder = { by: 'test', file: 'test/core/raft/replication.test.js' }
const storage: Finder = { by: 'test', file: 'test/sim/raft/crash-points.test.js' }
const segments: Finder = { by: 'test', file: 'test/services/meta/log-disk.test.js' }

const crashes: Finder = { by: 'test', file: 'test/services/storage/engine/crash-points.test.js' }

function mutant(name: string, file: string, finder: Finder, ...edits: (readonly [string, string])[]): Mutant {
  return { name, file, edits, finder }
}

const elections: readonly Mutant[] = [
  mutant('a vote is told before it is on the disk', 'core/raft/election.js', raft, [
    'pre: request.pre, granted }, true)',
    'pre: request.pre, granted }, false)',
  ]),
  mutant('votes are asked for before the own one is on the disk', 'core/raft/election.js', raft, [
    "state.emit({ kind: 'vote', to, term, pre, forced: kind === 'forced', lastIndex, lastTerm }, true)",
    "state.send.push({ kind: 'vote', from: state.id, to, term, pre, forced: kind === 'forced', lastIndex, lastTerm })",
  ]),
  mutant('a candidate gets a second vote of a term', 'core/raft/election.js', raft, [
    "state.vote === request.from || (state.vote === '' && state.leader === '')",
    'true',
  ]),
  mutant('a shorter log wins votes', 'core/raft/election.js', raft, [
    'free && state.log.isUpToDate(request.lastIndex, request.lastTerm)',
    'free',
  ]),
  mutant('a longer log of an older term wins votes', 'core/raft/log.js', raft, [
    'lastTerm > this.lastTerm || (lastTerm === this.lastTerm && lastIndex >= this.lastIndex)',
    'lastIndex >= this.lastIndex',
  ]),
  mutant('a term counts as durable when its write begins', 'core/raft/raft.js', raft, [
    'const hardState = state.hardChanged ? state.hardState : undefined;',
    'const hardState = state.hardChanged ? state.hardState : undefined; state.savedHard = state.hardState;',
  ]),
  mutant('a minority is a quorum', 'core/raft/quorum.js', raft, [
    'Math.floor(count / 2) + 1',
    'Math.max(1, Math.floor(count / 2))',
  ]),
  mutant('a leader that hears nobody goes on leading', 'core/raft/leader.js', raft, ['if (!heard)', 'if (false)']),
]

const replication: readonly Mutant[] = [
  mutant('entries are acknowledged before they are on the disk', 'core/raft/follower.js', raft, [
    'accepted: true, index: last, hintIndex: 0, hintTerm: 0 }, true)',
    'accepted: true, index: last, hintIndex: 0, hintTerm: 0 }, false)',
  ]),
  mutant('a leader counts itself before its own disk', 'core/raft/leader.js', raft, [
    'id === state.id ? log.durable :',
    'id === state.id ? log.lastIndex :',
  ]),
  mutant(
    'what is committed is applied before it is on the own disk',
    'core/raft/log.js',
    raft,
    ['const end = Math.min(this.#commit, this.#durable)', 'const end = this.#commit'],
    ['this.#applying <= Math.min(this.#commit, this.#durable)', 'this.#applying <= this.#commit'],
  ),
  mutant('a follower commits beyond what was compared', 'core/raft/follower.js', replicationTest, [
    'Math.min(request.commit, last)',
    'Math.min(request.commit, log.lastIndex)',
  ]),
  mutant('heartbeats carry the whole commit index', 'core/raft/leader.js', raft, [
    'Math.min(progress.match, state.log.commit)',
    'state.log.commit',
  ]),
  mutant('entries are taken behind any other entry', 'core/raft/follower.js', raft, [
    'if (!log.matches(prevIndex, prevTerm))',
    'if (prevIndex > log.lastIndex)',
  ]),
  mutant('a shorter append cuts off what is behind it', 'core/raft/log.js', raft, [
    'if (index <= this.baseIndex || this.matches(index, term))',
    'if (index <= this.baseIndex || (this.matches(index, term) && position < entries.length - 1))',
  ]),
  mutant('entries of an older term are committed by counting', 'core/raft/leader.js', raft, [
    'if (index <= log.commit || log.term(index) !== state.term)',
    'if (index <= log.commit)',
  ]),
  mutant('a new leader appends no entry of its own', 'core/raft/leader.js', raft, [
    "state.appendOwn('noop', emptyBytes);",
    '',
  ]),
  mutant('a finished write vouches for what came after it', 'core/raft/log.js', raft, [
    'this.#durable = this.#writing.shift().last',
    'this.#durable = (this.#writing.shift(), this.#writing = [], this.#unsaved = this.lastIndex + 1, this.lastIndex)',
  ]),
  mutant(
    'answers to an earlier member of that name count',
    'core/raft/leader.js',
    scenario('acknowledgements-of-a-disk-that-is-gone'),
    ['progress.session !== reply.session', 'false'],
  ),
  mutant('what was lost is not sent again', 'core/raft/replicate.js', raft, [
    "if (progress.state === 'snapshot' || progress.fetching)\n        return;",
    'return;',
  ]),
  mutant('the uncommitted end of the log has no bound', 'core/raft/leader.js', raft, ['if (full)', 'if (false)']),
]

const reads: readonly Mutant[] = [
  mutant('reads ask no quorum', 'core/raft/reads.js', raft, [
    'hasQuorum(voters, (id) => batch.confirmed.has(id))',
    'true',
  ]),
  mutant('a new leader reads before its first commit', 'core/raft/leader.js', raft, [
    '&& log.commit >= state.firstOwnIndex',
    '',
  ]),
  mutant('rounds of reads share one context', 'core/raft/reads.js', raft, [
    'return ++this.#contexts;',
    'return (this.#contexts = 1);',
  ]),
  mutant('a follower reads without asking its leader', 'core/raft/follower.js', raft, [
    'state.followerReads.add(token)',
    'state.confirmedReads.push({ token, index: state.log.commit })',
  ]),
  mutant('an answer to an earlier life confirms a read', 'core/raft/reads.js', scenario('answers-to-an-earlier-life'), [
    'this.#context = seed * contextsPerLife',
    'this.#context = 0',
  ]),
  mutant('a lease never runs out', 'core/raft/lease.js', raft, [
    'now - (this.#answered.get(id) ?? -Infinity) < this.#span',
    'this.#answered.has(id)',
  ]),
  mutant(
    'a lease outlives the handing over of leadership',
    'core/raft/transfer.js',
    scenario('late-word-to-take-over'),
    ['state.lease.giveUp();', ''],
  ),
  mutant(
    'a failed transfer of leadership never ends',
    'core/raft/transfer.js',
    scenario('leadership-for-a-dead-node'),
    ["if (state.transferee === '' || ++state.transferElapsed < state.electionTicks)", 'if (true)'],
  ),
]

const members: readonly Mutant[] = [
  mutant('one of two joint majorities is enough', 'core/raft/quorum.js', raft, [
    'config.outgoing.length === 0 ? [ids] : [ids, config.outgoing]',
    '[ids]',
  ]),
  mutant('learners count', 'core/raft/quorum.js', raft, [
    "member.role === 'voter' || member.role === 'witness'",
    "member.role === 'voter' || member.role === 'witness' || member.role === 'learner'",
  ]),
  mutant('a truncated configuration stays in force', 'core/raft/log.js', raft, [
    'while ((this.#configs.at(-1)?.index ?? 0) >= index)',
    'while (false)',
  ]),
  mutant('a joint configuration is left before it is committed', 'core/raft/reconfigure.js', raft, [
    'if (index > log.commit || log.commit < state.firstOwnIndex)\n        return;',
    '',
  ]),
  mutant('two changes of the members are under way', 'core/raft/reconfigure.js', raft, [
    'if (index > log.commit || config.outgoing.length > 0)',
    'if (false)',
  ]),
  mutant('a witness is sent what nobody else has', 'core/raft/witness.js', raft, [
    'return Math.min(durable, others.reduce((best, { match }) => Math.max(best, match), 0));',
    'return durable;',
  ]),
  mutant('a leader that is not alone any more does not notice', 'core/raft/witness.js', raft, [
    'other.match >= all)) {\n        state.solo = false;',
    'other.match >= all)) {',
  ]),
]

const snapshots: readonly Mutant[] = [
  mutant('a snapshot is acknowledged when it is announced', 'core/raft/follower.js', raft, [
    'if (offer.index > state.log.commit)\n        return;\n    acknowledgeSnapshot(state, offer.from, offer.session, state.log.commit)',
    'acknowledgeSnapshot(state, offer.from, offer.session, offer.index)',
  ]),
  mutant('a snapshot moves the state back', 'core/raft/raft.js', raft, ['&& offer.index > log.commit', '']),
  mutant('a log that differs is kept behind a snapshot', 'core/raft/log.js', raft, [
    'return this.matches(mark.index, mark.term)',
    'return mark.index <= this.lastIndex',
  ]),
  mutant(
    'appends go on while a snapshot is put in place',
    'core/raft/raft.js',
    scenario('election-during-an-install'),
    ['if (this.#task !== undefined || this.#held)', 'if (this.#task !== undefined)'],
  ),
]

const disks: readonly Mutant[] = [
  mutant('the Raft log in LevelDB is not synced', 'services/meta/log-store.js', storage, [
    'this.#kv.batch(operations, { sync })',
    'this.#kv.batch(operations, { sync: false })',
  ]),
  mutant('the watermark in LevelDB is not kept', 'services/meta/log-store.js', storage, [
    'const watermark = Math.min(this.#synced, kept)',
    'const watermark = 0',
  ]),
  mutant('the hash chain of the log is not compared', 'services/meta/log-store.js', storage, [
    'if (stored.previousChain !== chain)',
    'if (false)',
  ]),
  mutant('a log that is ahead of the votes is believed', 'services/meta/raft-boot.js', storage, [
    'if (ahead)',
    'if (false)',
  ]),
  mutant('both copies of a vote lie in one slot', 'services/meta/hard-state.js', storage, [
    'slotNames[sequence % 2]',
    'slotNames[0]',
  ]),
  mutant('the log in LevelDB is compacted before its base has moved', 'services/meta/log-store.js', storage, [
    'await this.#putBase({ index, term, config }, chain);',
    '',
  ]),
  mutant('a snapshot is put in place without a note', 'services/meta/log-store.js', storage, [
    "this.#write([{ type: 'put', key: installKey, value: seal(installRecord, record) }])",
    'Promise.resolve()',
  ]),
  mutant('a frame of the Raft log is not synced', 'services/meta/log-writer.js', storage, [
    'if (plan.sync && segment.file.durable !== true)',
    'if (false)',
  ]),
  mutant('a loss that later frames prove is taken for a torn write', 'services/meta/log-replay.js', segments, [
    'behind.find((frame) => frame.synced > replay.sequence)',
    'undefined',
  ]),
  mutant('a torn frame stays readable', 'services/meta/log-segments.js', segments, [
    'for (const offset of offsets)',
    'for (const offset of [])',
  ]),
  mutant('segments are given back before the base has moved', 'services/meta/log-disk.js', storage, [
    'await this.#writeState({ base: { index, term, config }, baseChain: chain });',
    '',
  ]),
  mutant('a segment is given back while it is read', 'services/meta/log-segments.js', segments, [
    'if (live.readers > 0)',
    'if (false)',
  ]),
  mutant('a snapshot is put in place in segments without a note', 'services/meta/log-disk.js', storage, [
    'this.#writeState({ installing: mark })',
    'Promise.resolve()',
  ]),
  mutant('the old log goes before the new one is in force', 'services/meta/log-place.js', storage, [
    'await settle();',
    '',
  ]),
  mutant('a vote is answered before its slot is synced', 'services/meta/raft-lanes.js', lanes, [
    'await slots.save(hardState)',
    'slots.save(hardState).catch(() => undefined)',
  ]),
  mutant('an append is answered before its batch is synced', 'services/meta/raft-lanes.js', lanes, [
    'if (!voteAlone)',
    'if (false)',
  ]),
  mutant('the log is compacted beyond what the state has on disk', 'services/meta/raft-lanes.js', lanes, [
    'Math.min(core.view.applied, machine.durableIndex())',
    'core.view.applied',
  ]),
]

const engine: readonly Mutant[] = [
  mutant('engine: chunks are acknowledged before the log is synced', 'services/storage/engine/log-writer.js', crashes, [
    'await Promise.all([...files.values()].map((file) => file.sync()))',
    'void files',
  ]),
  mutant('engine: groups do not say up to where the log is synced', 'services/storage/engine/log-writer.js', crashes, [
    'watermark: this.#synced',
    'watermark: { extent: 0, offset: 0 }',
  ]),
  mutant('engine: a torn tail is believed', 'core/chunk/recovery.js', crashes, [
    "return this.#follows(group) ? 'check' : 'stop'",
    "this.accept(group); return 'apply'",
  ]),
  mutant('engine: payloads beyond the watermark are not read', 'services/storage/engine/replay.js', crashes, [
    '|| !(await isComplete(held, contents, parts.sum))',
    '',
  ]),
  mutant('engine: the chain of groups is not compared', 'core/chunk/recovery.js', crashes, [
    '&& equalBytes(group.chain, this.#chain)',
    '',
  ]),
  mutant('engine: a recycled extent keeps its nonce', 'services/storage/engine/extent-table.js', crashes, [
    'const nonce = this.#entropy.bytes(16)',
    'const nonce = new Uint8Array(16)',
  ]),
  mutant('engine: a disk in use says that it was stopped in order', 'services/storage/engine/open.js', crashes, [
    'await checkpointer.save(false)',
    'void checkpointer',
  ]),
  mutant(
    'engine: the index is repeated from a log that is not on the disk',
    'services/storage/engine/replay.js',
    crashes,
    ['await held.file.sync()', 'void held'],
  ),
  mutant(
    'engine: a checkpoint comes before the index is on the disk',
    'services/storage/engine/chunk-index.js',
    crashes,
    ['await this.#kv.flush()', 'void this.#kv'],
  ),
  mutant('engine: an extent is recycled before its checkpoint', 'services/storage/engine/checkpointer.js', crashes, [
    'this.#emptied.set(extent, this.#position);',
    'this.#emptied.set(extent, this.#position); if (extent < this.#position.extent) return this.#retire(extent);',
  ]),
  mutant('engine: bytes in quarantine are given back', 'services/storage/engine/ledger.js', crashes, [
    'this.#pin(record.location.extent, record.location.span);',
    'this.#add(record.location.extent, -record.location.span);',
  ]),
  mutant(
    'engine: a disk has its cluster before that is on the disk',
    'services/storage/engine/identity-file.js',
    crashes,
    [
      'await files.write(fileName, encodeIdentity(adopted, sum))',
      'void files.write(fileName, encodeIdentity(adopted, sum))',
    ],
  ),
  mutant('engine: compaction brings back what was deleted meanwhile', 'services/storage/engine/mover.js', crashes, [
    'const current = await this.#current(id, place)',
    'const current = seen',
  ]),
  mutant(
    'engine: a rebuilt index takes the word of records for what they freed',
    'services/storage/engine/replay.js',
    crashes,
    ['this.#rebuilding ? await this.#fromIndex(content) : content.record', 'content.record'],
  ),
  mutant(
    'engine: an extent goes that may have a chunk whose index record is damaged',
    'services/storage/engine/mover.js',
    { by: 'test', file: 'test/services/storage/engine/compaction.test.js' },
    ['unknown = true;', 'unknown = false;'],
  ),
  mutant(
    'engine: a quarantine is lost with the extent that says so',
    'services/storage/engine/mover.js',
    { by: 'test', file: 'test/services/storage/engine/compaction.test.js' },
    ['return this.#sayAgain(record, location.extent);', 'return;'],
  ),
]

const metadata: readonly Mutant[] = [
  mutant('reads do without a barrier', 'services/meta/handlers.js', { by: 'cluster', faults: 'lonely-leader' }, [
    'await deps.replicator.barrier();',
    '',
  ]),
  mutant('if-match is not looked at', 'core/meta/namespace.js', { by: 'cluster' }, [
    'const { ifAbsent, ifMatch } = operation.condition;',
    "const { ifAbsent } = operation.condition; const ifMatch = '';",
  ]),
  mutant(
    'a repeated call is carried out again',
    'core/meta/sessions.js',
    { by: 'test', file: 'test/core/meta/sessions.test.js' },
    ['session.kept.includes(sequence)', 'false'],
  ),
  mutant(
    'chunks of open leases are deleted as orphans',
    'services/meta/control/reconcile.js',
    { by: 'test', file: 'test/services/meta/control/reconcile.test.js' },
    ['inOpenLease(chunk) || copying(disk, chunk)', 'copying(disk, chunk)'],
  ),
  mutant(
    'acknowledgements of a fenced generation count',
    'core/meta/acks.js',
    { by: 'test', file: 'test/core/meta/commit.test.js' },
    ['liveDisk(tx, intake, ack.disk)?.generation !== ack.generation', 'liveDisk(tx, intake, ack.disk) === undefined'],
  ),
  mutant(
    'a copy is trimmed without proof',
    'core/meta/replicas.js',
    { by: 'test', file: 'test/core/meta/replicas.test.js' },
    ['proven.size < chunk.copies', 'false'],
  ),
]

export const mutants: readonly Mutant[] = [
  ...elections,
  ...replication,
  ...reads,
  ...members,
  ...snapshots,
  ...disks,
  ...engine,
  ...metadata,
]
