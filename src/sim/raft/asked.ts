/**
 * Clients that wait at one node: for their proposal to be applied, or for a read to be safe. What
 * `src/services/meta/raft-waiters.ts` does, with the oracle's look at every read.
 */

import type { Raft } from '../../core/raft/raft.ts'
import type { Entry, Ready } from '../../core/raft/types.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Answer, Machine } from './machine.ts'
import type { Oracles, Watched } from './oracles.ts'

export type Request =
  | { readonly kind: 'write'; readonly id: number; readonly payload: Uint8Array }
  | { readonly kind: 'read'; readonly id: number; readonly key: number }

export type Told =
  | { readonly kind: 'answer'; readonly answer: Answer }
  /** Nothing was done; `leader` may know more. */
  | { readonly kind: 'refused'; readonly leader: NodeId }
  | { readonly kind: 'unknown' }

export interface Answers {
  /** The node at `node` answers the request. */
  told(node: NodeId, request: number, told: Told): void
}

interface Read {
  readonly request: number
  readonly key: number
  /** What was committed anywhere when the read began. */
  readonly floor: number
}

/** Proposals and reads that may wait at once; limits of the core keep it far below. */
const waitingMax = 20_000

export class Asked {
  readonly #node: Watched
  readonly #core: Raft
  readonly #machine: Machine
  readonly #answers: Answers
  readonly #oracles: Oracles
  readonly #proposals = new Map<number, { readonly term: number; readonly request: number }>()
  readonly #reads = new Map<number, Read>()
  #confirmed: { readonly index: number; readonly read: Read }[] = []
  #tokens = 0
  /** Term in which this node led when it was last looked at. */
  #led: number | undefined

  constructor(node: Watched, core: Raft, machine: Machine, answers: Answers, oracles: Oracles) {
    this.#node = node
    this.#core = core
    this.#machine = machine
    this.#answers = answers
    this.#oracles = oracles
  }

  ask(request: Request, use: (step: (core: Raft) => void) => void): void {
    use((core) => {
      const accepted = request.kind === 'write' ? this.#propose(core, request) : this.#read(core, request)
      if (!accepted) this.#tell(request.id, { kind: 'refused', leader: core.view.leader })
    })
    const { size } = this.#proposals
    if (size + this.#reads.size > waitingMax) this.#oracles.fail(`${this.#node.id} has ${size} callers waiting`)
  }

  #propose(core: Raft, request: Extract<Request, { kind: 'write' }>): boolean {
    const result = core.propose(request.payload)
    if (!result.ok) return false
    const replaced = this.#proposals.get(result.index)
    if (replaced !== undefined) this.#tell(replaced.request, { kind: 'unknown' })
    this.#proposals.set(result.index, { term: result.term, request: request.id })
    return true
  }

  #read(core: Raft, request: Extract<Request, { kind: 'read' }>): boolean {
    const token = ++this.#tokens
    this.#reads.set(token, { request: request.id, key: request.key, floor: this.#oracles.committed })
    if (core.readIndex(token) === 'waiting') return true
    this.#reads.delete(token)
    return false
  }

  #tell(request: number, told: Told): void {
    this.#answers.told(this.#node.id, request, told)
  }

  /** Reads that the core confirmed or gave up. */
  carryOut({ reads, droppedReads }: Ready): void {
    for (const token of droppedReads) {
      const read = this.#reads.get(token)
      this.#reads.delete(token)
      if (read !== undefined) this.#tell(read.request, { kind: 'refused', leader: this.#core.view.leader })
    }
    for (const { token, index } of reads) {
      const read = this.#reads.get(token)
      this.#reads.delete(token)
      if (read === undefined) continue
      if (index < read.floor) {
        this.#oracles.fail(`${this.#node.id} reads at ${index} what began when ${read.floor} was committed`)
      }
      this.#confirmed.push({ index, read })
    }
    if (reads.length > 0) this.#serve()
  }

  applied(entry: Entry, answer: Answer | undefined): void {
    const proposal = this.#proposals.get(entry.index)
    if (proposal !== undefined) {
      this.#proposals.delete(entry.index)
      const own = proposal.term === entry.term && answer !== undefined
      this.#tell(proposal.request, own ? { kind: 'answer', answer } : { kind: 'unknown' })
    }
    if (this.#confirmed.length > 0) this.#serve()
  }

  /** Answers the reads whose index is applied. */
  #serve(): void {
    const { index: applied } = this.#machine
    this.#confirmed = this.#confirmed.filter(({ index, read }) => {
      if (index > applied) return true
      this.#oracles.reads(this.#node, read.floor, applied)
      this.#tell(read.request, { kind: 'answer', answer: this.#machine.read(read.key) })
      return false
    })
  }

  /** Whoever waits for a proposal of a term that is over is told that nobody knows. */
  noticeRole(): void {
    const { role, term } = this.#core.view
    const led = role === 'leader' ? term : undefined
    if (this.#led !== undefined && led !== this.#led) this.#failAll()
    this.#led = led
  }

  #failAll(): void {
    const { leader } = this.#core.view
    const proposals = [...this.#proposals.values()]
    const reads = [...this.#reads.values(), ...this.#confirmed.map(({ read }) => read)]
    this.#proposals.clear()
    this.#reads.clear()
    this.#confirmed = []
    for (const { request } of proposals) this.#tell(request, { kind: 'unknown' })
    for (const { request } of reads) this.#tell(request, { kind: 'refused', leader })
  }

  /** The process is gone: nobody is told anything. */
  end(): void {
    this.#proposals.clear()
    this.#reads.clear()
    this.#confirmed = []
  }
}
