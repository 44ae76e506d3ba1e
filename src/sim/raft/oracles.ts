/**
 * What must hold of all nodes together, looked at after every event, each time only at what the event touched.
 *
 * - One leader in a term, ever; terms of a node never go back.
 * - Two logs with an entry of the same index and term agree up to there (log matching, by a hash chain over everything
 *   that was ever appended).
 * - A leader holds everything that was committed in earlier terms. What was committed never changes.
 * - At the moment of commit the entry is on the disks of a majority of every group of voters that decides.
 * - A vote, a message or an acknowledgement leaves only after what it says is on the disk; one vote in a term.
 * - Only what is committed and on the disk is applied; equal index, equal state; each command has one effect.
 * - A linearizable read has everything in it that was committed when it began.
 */

import { encodeConfig, type Message } from '../../core/raft/messages.ts'
import type { ClusterConfig, Entry } from '../../core/raft/types.ts'
import type { NodeId } from '../../model/ids.ts'
import { type Command, entryHash, mix } from './command.ts'
import type { RaftDisk } from './disk.ts'

/** What the oracles see of a node. */
export interface Watched {
  readonly id: NodeId
  readonly incarnation: string
  readonly disk: RaftDisk
}

/** Cursors of a node's core. */
export interface Cursors {
  readonly role: string
  readonly term: number
  readonly commit: number
  readonly lastIndex: number
  readonly firstOwnIndex: number
  readonly solo: boolean
}

/** What was last seen of a node in its present life. */
interface Seen {
  role: string
  term: number
  commit: number
}

interface Committed {
  readonly term: number
  /** Term of the leader that committed it. */
  readonly byTerm: number
}

/** Entries of its own that a leader appends beside what is proposed: no-op, configuration, solo. */
const ownEntriesMax = 4

function chainOf(previous: number, entry: Entry): number {
  return mix(mix(mix(previous, entry.index), entry.term), entryHash(entry))
}

/** A broken invariant. */
export class Violation extends Error {
  override readonly name = 'Violation'
}

export class Oracles {
  /** Leader of each term. */
  readonly #leaders = new Map<number, NodeId>()
  /** By index: term and chain of every entry that was ever in a log. */
  readonly #chains: Map<number, number>[] = [new Map([[0, 1]])]
  readonly #committed: Committed[] = [{ term: 0, byTerm: 0 }]
  /** By index: hash of the state there. */
  readonly #states: number[] = []
  /** By voter, incarnation and term: who got the vote. */
  readonly #votes = new Map<string, NodeId>()
  /** By session and sequence: the index where it had its effect. */
  readonly #effects = new Map<string, number>()
  readonly #seen = new Map<Watched, Seen>()
  /** What disks held that were lost later: it was acknowledged, and that may be on its way still. */
  readonly #lost = new Map<string, Pick<RaftDisk, 'has'>>()
  readonly #diskOf: (id: NodeId, incarnation: string) => RaftDisk | undefined
  /** Entries that a leader may have proposed and not committed. */
  readonly #uncommittedMax: number

  constructor(uncommittedEntries: number, diskOf: (id: NodeId, incarnation: string) => RaftDisk | undefined) {
    this.#uncommittedMax = uncommittedEntries + ownEntriesMax
    this.#diskOf = diskOf
  }

  /** Everything up to here is committed. */
  get committed(): number {
    return this.#committed.length - 1
  }

  termAt(index: number): number | undefined {
    return this.#committed[index]?.term
  }

  fail(what: string): never {
    throw new Violation(what)
  }

  /** The configuration in force, of entry `index`, which is of type `type` (undefined: not in memory). */
  configured(node: Watched, index: number, lastIndex: number, type: Entry['type'] | undefined): void {
    if (index > lastIndex || (type !== undefined && type !== 'config')) {
      this.fail(`${node.id} is under a configuration of entry ${index}, which is not in its log any more`)
    }
  }

  /** The cluster is formed: its first entry is in every log and committed. */
  founded(config: ClusterConfig): void {
    if (this.committed > 0) return
    const entry: Entry = { index: 1, term: 1, type: 'config', payload: encodeConfig(config) }
    this.#chains[1] = new Map([[1, chainOf(1, entry)]])
    this.#committed.push({ term: 1, byTerm: 1 })
  }

  /** A new life of a node: it remembers what is on its disk. */
  started(node: Watched, { role, term, commit }: Cursors): void {
    this.#seen.set(node, { role, term, commit })
  }

  /** The node's disk is about to be damaged or taken away. */
  loses({ id, incarnation, disk }: Watched): void {
    const { base } = disk.image
    const terms = new Map([...disk.image.entries].map(([index, { entry }]) => [index, entry.term]))
    this.#lost.set(`${id} ${incarnation}`, {
      has: (index, term) => index <= base.index || terms.get(index) === term,
    })
  }

  /** The node has done something: compares with what it was before. */
  looked(node: Watched, now: Cursors, termOf: (index: number) => number | undefined, config: ClusterConfig): void {
    const seen = this.#seen.get(node)
    if (seen === undefined) return
    if (now.term < seen.term) this.fail(`the term of ${node.id} went back from ${seen.term} to ${now.term}`)
    if (now.commit < seen.commit) this.fail(`commit of ${node.id} went back from ${seen.commit} to ${now.commit}`)
    if (now.role === 'leader' && (seen.role !== 'leader' || seen.term !== now.term)) this.#leads(node, now, termOf)
    if (now.role === 'leader') this.#bounded(node, now)
    if (now.commit > seen.commit) this.#commits(node, now, seen.commit, termOf, config)
    seen.role = now.role
    seen.term = now.term
    seen.commit = now.commit
  }

  #leads(node: Watched, { term, lastIndex }: Cursors, termOf: (index: number) => number | undefined): void {
    const other = this.#leaders.get(term)
    if (other !== undefined) this.fail(`${other} and ${node.id} lead in term ${term}`)
    this.#leaders.set(term, node.id)
    let index = this.committed
    while (index > 0 && (this.#committed[index] as Committed).byTerm >= term) index--
    const held = termOf(index)
    if (lastIndex < index || (held !== undefined && held !== this.termAt(index))) {
      this.fail(`${node.id} leads term ${term} without entry ${index}, committed in an earlier term`)
    }
  }

  /** What a leader believes of `id` is on the disk there, unless that member has moved on to a newer term. */
  believed(node: Watched, term: number, id: NodeId, incarnation: string, match: number, matchTerm: number): void {
    const lost = this.#lost.get(`${id} ${incarnation}`)
    const disk = this.#diskOf(id, incarnation)
    if (lost?.has(match, matchTerm) === true || disk === undefined || (disk.hard?.term ?? 0) > term) return
    if (!disk.has(match, matchTerm)) this.fail(`${node.id} believes that ${id} has entry ${match}, which it has not`)
  }

  #bounded(node: Watched, { lastIndex, commit, firstOwnIndex }: Cursors): void {
    const open = lastIndex - Math.max(commit, firstOwnIndex - 1)
    if (open > this.#uncommittedMax) this.fail(`${node.id} has ${open} entries that are not committed`)
  }

  #commits(
    node: Watched,
    now: Cursors,
    before: number,
    termOf: (index: number) => number | undefined,
    config: ClusterConfig,
  ): void {
    const known = this.committed
    for (let index = before + 1; index <= now.commit; index++) {
      const term = termOf(index)
      // Behind a snapshot the log does not say; the state's hash does.
      if (term === undefined && index <= known) continue
      if (term === undefined) this.fail(`${node.id} committed entry ${index}, which it does not have`)
      const settled = this.#committed[index]
      if (settled === undefined) this.#committed.push({ term, byTerm: now.term })
      else if (settled.term !== term) {
        this.fail(`committed entry ${index} of term ${settled.term} is of term ${term} on ${node.id}`)
      }
    }
    if (this.committed > known) this.#durable(node, this.committed, now, config)
  }

  /** The newest committed entry is on the disks of a majority of every group that decides. */
  #durable(node: Watched, index: number, now: Cursors, { members, outgoing }: ClusterConfig): void {
    const term = this.termAt(index) ?? 0
    const has = (id: NodeId): boolean => {
      const member = members.find((other) => other.id === id)
      if (member === undefined) return false
      const disk = this.#lost.get(`${id} ${member.incarnation}`) ?? this.#diskOf(id, member.incarnation)
      return disk?.has(index, term) === true
    }
    const incoming = members.filter(({ role }) => role === 'voter' || role === 'witness').map(({ id }) => id)
    for (const group of outgoing.length === 0 ? [incoming] : [incoming, outgoing]) {
      const holders = group.filter(has)
      if (holders.length * 2 > group.length) continue
      this.fail(`${node.id} committed entry ${index} of term ${term}: on the disks of [${holders}] of [${group}]`)
    }
    if (now.role === 'leader' && term !== now.term) {
      this.fail(`${node.id}, leader of term ${now.term}, committed entry ${index} of term ${term} by counting`)
    }
    this.#beyondWitness(
      node,
      index,
      now,
      members.filter(({ role }) => role !== 'learner'),
      has,
    )
  }

  /** With a witness: payloads are on two disks, unless the leader says that it goes on alone. */
  #beyondWitness(
    node: Watched,
    index: number,
    now: Cursors,
    members: ClusterConfig['members'],
    has: (id: NodeId) => boolean,
  ): void {
    const full = members.filter(({ role }) => role === 'voter' || role === 'leaving')
    if (now.solo || full.length === members.length || full.length < 2) return
    const holders = full.filter(({ id }) => has(id))
    if (holders.length < 2) this.fail(`${node.id} committed entry ${index} with the witness, and does not say so`)
  }

  /** Entries go into a log, after an entry of `prevTerm`. */
  appended(node: Watched, entries: readonly Entry[], prevTerm: number): void {
    let term = prevTerm
    for (const entry of entries) {
      const chain = this.#chains[entry.index - 1]?.get(term)
      if (chain === undefined) {
        this.fail(`${node.id} appends entry ${entry.index} after one of term ${term} that no log ever had`)
      }
      const next = chainOf(chain, entry)
      const row = this.#chains[entry.index] ?? new Map<number, number>()
      this.#chains[entry.index] = row
      const known = row.get(entry.term)
      if (known === undefined) row.set(entry.term, next)
      else if (known !== next) {
        this.fail(`entry ${entry.index} of term ${entry.term} on ${node.id} differs from the one elsewhere`)
      }
      const settled = this.termAt(entry.index)
      if (settled !== undefined && settled !== entry.term && entry.term > (this.#committed[entry.index]?.byTerm ?? 0)) {
        this.fail(`${node.id} appends entry ${entry.index} of term ${entry.term} over a committed one of ${settled}`)
      }
      term = entry.term
    }
  }

  /** A message leaves its node: what it says is on the disk. */
  sends(node: Watched, message: Message): void {
    const { disk } = node
    const hard = disk.hard ?? { term: 0, vote: '' }
    const pre = (message.kind === 'vote' || (message.kind === 'voteReply' && message.granted)) && message.pre
    // A pre-vote and its grant name a term that nobody is in yet.
    if (!pre && message.term > hard.term) {
      this.fail(`${node.id} sends ${message.kind} of term ${message.term}, its disk knows of term ${hard.term}`)
    }
    if (message.kind === 'vote' && !pre) this.#gives(node, message.term, node.id)
    if (message.kind === 'voteReply' && message.granted && !pre) this.#gives(node, message.term, message.to)
    if (message.kind === 'appendReply' && message.accepted) this.#acknowledges(node, message.index, message.term)
  }

  #gives(node: Watched, term: number, candidate: NodeId): void {
    const hard = node.disk.hard
    if (hard?.term === term && hard.vote !== candidate) {
      this.fail(`${node.id} votes for ${candidate} in term ${term}, its disk says ${hard.vote}`)
    }
    const key = `${node.id} ${node.incarnation} ${term}`
    const other = this.#votes.get(key)
    if (other !== undefined && other !== candidate) {
      this.fail(`${node.id} votes for ${other} and ${candidate} in term ${term}`)
    }
    this.#votes.set(key, candidate)
  }

  #acknowledges(node: Watched, index: number, term: number): void {
    const { image, hard } = node.disk
    // An answer of an earlier term was true when the entry became durable, and the entry may be replaced by now. It is as
    // good as one that was long on its way: whoever leads a newer term without the entry was refused this node's vote.
    if (hard !== undefined && term < hard.term) return
    if (index > image.base.index && !image.entries.has(index)) {
      this.fail(`${node.id} acknowledges entry ${index}, which is not on its disk`)
    }
  }

  /** A node applied `entry`; `hash` is its state behind it, undefined for a witness. */
  applied(node: Watched, entry: Entry, hash: number | undefined): void {
    const { index, term } = entry
    if (this.termAt(index) !== term)
      this.fail(`${node.id} applies entry ${index} of term ${term}, which is not committed`)
    if (!node.disk.has(index, term)) this.fail(`${node.id} applies entry ${index}, which is not on its disk`)
    if (hash !== undefined) this.stateIs(node, index, hash)
  }

  stateIs(node: Watched, index: number, hash: number): void {
    const known = this.#states[index]
    if (known === undefined) this.#states[index] = hash
    else if (known !== hash) this.fail(`the state of ${node.id} at ${index} differs from that of others`)
  }

  /** A command had its effect at `index`: on every node at the same one. */
  effect({ session, sequence }: Command, index: number): void {
    const key = `${session} ${sequence}`
    const known = this.#effects.get(key)
    if (known === undefined) this.#effects.set(key, index)
    else if (known !== index)
      this.fail(`command ${sequence} of session ${session} had its effect at ${known} and ${index}`)
  }

  /** A client is told that its command had its effect at `index`. */
  acknowledged(session: number, sequence: number): void {
    if (!this.#effects.has(`${session} ${sequence}`)) this.fail(`command ${sequence} of ${session} had no effect`)
  }

  /** A read that began when everything up to `floor` was committed is served from a state at `applied`. */
  reads(node: Watched, floor: number, applied: number): void {
    if (applied < floor) this.fail(`${node.id} serves a read at ${applied} that began when ${floor} was committed`)
  }
}
