/**
 * Surplus copies, and corrupt ones beside enough good ones, given up with proof: first the victim is decided, then every other copy is read and verified on its
 * disk, then a `trim` entry names the ones that were intact (docs/RULES.md, rule 4 a). `apply` checks it again.
 *
 * A chunk is left alone while a holder is suspected or not attached in this term: there is no hurry to delete.
 */

import type { ChunkRecord } from '../../../core/meta/records.ts'
import { type CountedCopy, surplusCopy } from '../../../core/repair/class.ts'
import { type ChunkId, type DiskNumber, formatChunkId } from '../../../model/ids.ts'
import type { Evidence, Proof } from './evidence.ts'
import type { Sessions } from './sessions.ts'
import { Alarm, Pump, type Term } from './term.ts'
import type { Topology } from './topology.ts'

interface Decision {
  readonly chunk: ChunkId
  readonly wanted: number
  readonly victim: DiskNumber
  readonly keepers: readonly DiskNumber[]
}

const batchMax = 32
const chunksMax = 65_536
const retryMs = 5000

export class Trim {
  readonly #term: Term
  readonly #topology: Topology
  readonly #sessions: Sessions
  readonly #evidence: Evidence
  readonly #chunks = new Set<ChunkId>()
  readonly #later = new Set<ChunkId>()
  readonly #pump: Pump
  readonly #alarm: Alarm

  constructor(term: Term, topology: Topology, sessions: Sessions, evidence: Evidence) {
    this.#term = term
    this.#topology = topology
    this.#sessions = sessions
    this.#evidence = evidence
    this.#pump = new Pump(term, 'trim surplus copies', () => this.#pass())
    this.#alarm = new Alarm(term, () => {
      for (const chunk of this.#later) this.#chunks.add(chunk)
      this.#later.clear()
      this.#pump.kick()
    })
  }

  get size(): number {
    return this.#chunks.size + this.#later.size
  }

  /** The chunk has more copies than wanted. Forgotten when too many wait: the next scan of a disk finds it again. */
  add(chunk: ChunkId): void {
    if (this.size >= chunksMax || this.#later.has(chunk)) return
    this.#chunks.add(chunk)
    this.#pump.kick()
  }

  /** Deletes are no longer held. */
  resume(): void {
    this.#pump.kick()
  }

  async #pass(): Promise<void> {
    while (this.#chunks.size > 0 && !this.#term.deletesHeld) {
      const decisions: Decision[] = []
      for (const chunk of this.#chunks) {
        if (decisions.length >= batchMax) break
        this.#chunks.delete(chunk)
        const decision = this.#decide(chunk, await this.#term.queries.chunk(chunk))
        if (decision === 'later') this.#postpone(chunk)
        else if (decision !== 'none') decisions.push(decision)
      }
      if (decisions.length > 0) await this.#carryOut(decisions)
    }
  }

  #postpone(chunk: ChunkId): void {
    this.#later.add(chunk)
    this.#alarm.setEarlier(this.#term.nowMs() + retryMs)
  }

  #decide(chunk: ChunkId, record: ChunkRecord | undefined): Decision | 'later' | 'none' {
    if (record === undefined || (record.references === 0 && !record.pinned)) return 'none'
    const counted = this.#topology.counted(record.replicas)
    const corrupt = record.replicas.find((replica) => replica.state === 'corrupt')?.disk
    if (counted.length < record.copies || (counted.length === record.copies && corrupt === undefined)) return 'none'
    const ready = (copy: CountedCopy): boolean => copy.firm && this.#sessions.ofDisk(copy.disk) !== undefined
    if (!counted.every(ready)) return 'later'
    const victim = corrupt ?? surplusCopy(counted, (disk) => this.#topology.fullness(disk))
    if (victim === undefined) return 'none'
    const keepers = counted.map((copy) => copy.disk).filter((disk) => disk !== victim)
    return { chunk, wanted: record.copies, victim, keepers }
  }

  async #carryOut(decisions: readonly Decision[]): Promise<void> {
    const wanted = new Map<DiskNumber, ChunkId[]>()
    for (const { chunk, keepers } of decisions) {
      for (const disk of keepers) wanted.set(disk, [...(wanted.get(disk) ?? []), chunk])
    }
    const disks = [...wanted.keys()].sort((a, b) => a - b)
    const proofs = new Map<DiskNumber, Proof>()
    await Promise.all(
      disks.map(async (disk) => {
        const proof = await this.#prove(disk, wanted.get(disk) ?? [])
        if (proof !== undefined) proofs.set(disk, proof)
      }),
    )
    await Promise.all(decisions.map((decision) => this.#trim(decision, proofs)))
  }

  async #prove(disk: DiskNumber, chunks: readonly ChunkId[]): Promise<Proof | undefined> {
    try {
      const proof = await this.#evidence.prove(disk, chunks)
      await this.#evidence.condemn(disk, proof)
      return proof
    } catch (error) {
      this.#term.report('verify the copies that stay', error)
      return undefined
    }
  }

  async #trim(decision: Decision, proofs: ReadonlyMap<DiskNumber, Proof>): Promise<void> {
    const { chunk, victim, keepers, wanted } = decision
    const proof: { disk: DiskNumber; generation: number }[] = []
    for (const disk of keepers) {
      const found = proofs.get(disk)
      if (found?.intact.includes(chunk)) proof.push({ disk, generation: found.generation })
    }
    if (proof.length < wanted || this.#term.deletesHeld) {
      this.#postpone(chunk)
      return
    }
    const reply = await this.#term.propose({ kind: 'trim', chunk, disk: victim, proof })
    const fields = { chunk: formatChunkId(chunk), disk: victim, proof: proof.map((ack) => ack.disk).join(',') }
    if (reply.ok) this.#term.log.debug('surplus copy given up', fields)
    else this.#term.log.warn('trim was refused', { ...fields, code: reply.code, reason: reply.message })
  }
}
