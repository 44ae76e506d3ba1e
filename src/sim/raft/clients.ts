/**
 * Clients of the simulated cluster: each does one operation after the other on a few registers, looks for the leader,
 * repeats what was not answered under the same session and number, and writes down what it was told.
 *
 * A client that gives a write up does not know its outcome and goes on under a new session, as the real one does.
 * The history is judged at the end by the checkers of src/sim/check.
 */

import { Prng } from '../../base/prng.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Operation, RegisterOp } from '../check/register.ts'
import { Seeded } from '../seed.ts'
import type { Answers, Request, Told } from './asked.ts'
import { type Command, encodeCommand } from './command.ts'
import type { Loop } from './loop.ts'
import type { Answer } from './machine.ts'
import type { Oracles } from './oracles.ts'
import type { RaftPlan } from './plan.ts'

/** What clients need of their world. */
export interface ClientGround {
  readonly loop: Loop
  readonly plan: RaftPlan
  readonly oracles: Oracles
  /** Ids of nodes that may be asked. */
  nodes(): readonly NodeId[]
  /** Brings a request to a node, if it is there. */
  ask(node: NodeId, request: Request): void
}

/** Tries of one operation before its client gives up. */
const triesMax = 40

/** One operation of a client, until it is answered or given up. */
interface Doing {
  readonly op: RegisterOp
  readonly key: number
  readonly call: number
  readonly payload: Uint8Array | undefined
  readonly sequence: number
  tries: number
}

export class Clients implements Answers {
  readonly #ground: ClientGround
  readonly history: Operation[] = []
  readonly #clients: Client[]
  /** Who hears of the answer to each request. */
  readonly #requests = new Map<number, (node: NodeId, told: Told) => void>()
  #ids = 0
  #sessions = 0
  #values = 0
  stopped = false

  constructor(ground: ClientGround) {
    this.#ground = ground
    const seed = new Prng(ground.plan.seed).fork('clients')
    const { clients, workload } = ground.plan
    this.#clients = clients.map((name, i) => {
      const reads = i < workload.readers ? 1 : workload.reads
      return new Client(this, ground, `c${name}`, seed.fork(`c${name}`), reads)
    })
  }

  start(): void {
    for (const client of this.#clients) client.next()
  }

  newSession(): number {
    return ++this.#sessions
  }

  newValue(): number {
    return ++this.#values
  }

  newRequest(hear: (node: NodeId, told: Told) => void): number {
    this.#requests.set(++this.#ids, hear)
    return this.#ids
  }

  told(node: NodeId, request: number, told: Told): void {
    const hear = this.#requests.get(request)
    this.#requests.delete(request)
    hear?.(node, told)
  }

  /** A client that asks until it is answered, for the time after the faults. */
  probe(done: () => void): void {
    const seed = new Prng(this.#ground.plan.seed).fork('probe')
    const client = new Client(this, this.#ground, 'probe', seed, 0)
    client.survey(this.#ground.plan.workload.keys, done)
  }

  /** Operations that were called and not answered count as unknown. */
  close(): void {
    for (const client of this.#clients) client.giveUp()
  }
}

export class Client {
  readonly #clients: Clients
  readonly #ground: ClientGround
  readonly #name: string
  readonly #random: Seeded
  /** Probability that an operation is a read. */
  readonly #reads: number
  #session: number
  #sequence = 0
  #target: NodeId | undefined
  #doing: Doing | undefined
  #request = 0
  #count = 0
  /** Versions this client has seen, by key: what its conditions name. */
  readonly #versions = new Map<number, number>()
  #survey: { left: RegisterOp[]; readonly keys: number[]; readonly done: () => void } | undefined

  constructor(clients: Clients, ground: ClientGround, name: string, seed: Prng, reads: number) {
    this.#clients = clients
    this.#reads = reads
    this.#ground = ground
    this.#name = name
    this.#random = new Seeded(seed)
    this.#session = clients.newSession()
  }

  /** Thinks, then does the next operation. */
  next(): void {
    const { workload } = this.#ground.plan
    if (this.#survey === undefined && (this.#clients.stopped || this.#count++ >= workload.operations)) return
    const thinkUs = this.#survey === undefined ? workload.thinkUs * 2 * this.#random.unit() : 0
    this.#ground.loop.after(thinkUs, 'client', undefined, () => this.#begin())
  }

  /** Writes and reads every key once, with patience; then calls `done`. */
  survey(keys: number, done: () => void): void {
    const left: RegisterOp[] = []
    const of: number[] = []
    for (let key = 0; key < keys; key++) {
      left.push({ kind: 'get' }, { kind: 'put', value: '' }, { kind: 'get' })
      of.push(key, key, key)
    }
    this.#survey = { left, keys: of, done }
    this.next()
  }

  #begin(): void {
    const survey = this.#survey
    if (survey === undefined && this.#clients.stopped) return
    const planned = survey?.left.shift()
    if (survey !== undefined && planned === undefined) {
      survey.done()
      return
    }
    const key = survey?.keys.shift() ?? this.#random.below(this.#ground.plan.workload.keys)
    const op = this.#opOf(planned?.kind ?? this.#drawKind(), key)
    const writes = op.kind !== 'get'
    if (writes) this.#sequence++
    const payload = writes ? this.#encode(op, key) : undefined
    this.#doing = { op, key, call: this.#ground.loop.nowUs, payload, sequence: this.#sequence, tries: 0 }
    this.#try()
  }

  #drawKind(): RegisterOp['kind'] {
    if (this.#random.chance(this.#reads)) return 'get'
    return this.#random.pick(['put', 'put', 'cas', 'cas', 'delete'])
  }

  #opOf(kind: RegisterOp['kind'], key: number): RegisterOp {
    if (kind === 'get') return { kind }
    if (kind === 'delete') return { kind }
    const value = String(this.#clients.newValue())
    if (kind === 'put') return { kind, value }
    return { kind, value, onVersion: this.#versions.get(key) ?? 0 }
  }

  #encode(op: Exclude<RegisterOp, { kind: 'get' }>, key: number): Uint8Array {
    const command: Command = {
      kind: op.kind,
      session: this.#session,
      sequence: this.#sequence,
      key,
      value: op.kind === 'delete' ? 0 : Number(op.value),
      onVersion: op.kind === 'cas' ? (op.onVersion ?? 0) : 0,
    }
    const { paddingMax } = this.#ground.plan.workload
    return encodeCommand(command, paddingMax === 0 ? 0 : this.#random.below(paddingMax))
  }

  #try(): void {
    const doing = this.#doing
    if (doing === undefined) return
    const { loop, plan } = this.#ground
    if (doing.tries++ >= triesMax && this.#survey === undefined) {
      this.giveUp()
      this.next()
      return
    }
    const id = this.#clients.newRequest((node, told) => this.#hear(doing, node, id, told))
    this.#request = id
    const { op, payload, key } = doing
    const elsewhere = op.kind === 'get' && plan.workload.anywhere
    const target = (elsewhere ? undefined : this.#target) ?? this.#random.pick(this.#ground.nodes())
    const request: Request = payload === undefined ? { kind: 'read', id, key } : { kind: 'write', id, payload }
    loop.after(this.#travelUs(), 'request', undefined, () => this.#ground.ask(target, request), target)
    const timeoutUs = this.#survey === undefined ? plan.workload.timeoutUs : plan.tickUs * plan.electionTicks
    loop.after(timeoutUs, 'client', undefined, () => {
      if (this.#request !== id || this.#doing !== doing) return
      this.#target = undefined
      this.#try()
    })
  }

  #travelUs(): number {
    const { minUs, meanUs } = this.#ground.plan.net
    return minUs - Math.log(1 - this.#random.unit()) * Math.min(meanUs, 1000)
  }

  /** A node answers; late answers to an earlier try count as well as any. */
  #hear(doing: Doing, node: NodeId, request: number, told: Told): void {
    const { loop } = this.#ground
    const arrived = (): void => {
      if (this.#doing !== doing) return
      if (told.kind === 'answer') {
        this.#target = node
        this.#finish(doing, told.answer)
      } else if (this.#request === request) {
        const hint = told.kind === 'refused' && told.leader !== '' && told.leader !== node ? told.leader : undefined
        this.#target = hint
        // Nobody leads, or it has too much to do: not at once again.
        if (hint !== undefined) this.#again(doing, request)
        else loop.after(this.#pauseUs(), 'client', undefined, () => this.#again(doing, request))
      }
    }
    loop.after(this.#travelUs(), 'reply', undefined, arrived, node)
  }

  #pauseUs(): number {
    return this.#ground.plan.tickUs * (0.5 + this.#random.unit())
  }

  #again(doing: Doing, request: number): void {
    if (this.#doing === doing && this.#request === request) this.#try()
  }

  #finish(doing: Doing, answer: Answer): void {
    this.#doing = undefined
    const { op, key, call, sequence } = doing
    const { ok, value, version } = answer
    this.#versions.set(key, value === 0 ? 0 : version)
    if (op.kind !== 'get') this.#ground.oracles.acknowledged(this.#session, sequence)
    const seen = value === 0 ? undefined : String(value)
    const result = op.kind === 'get' ? { ok, value: seen, version } : { ok, version: ok ? version : undefined }
    this.#record({ op, key, call, result })
    this.next()
  }

  #record({ op, key, call, result }: Pick<Operation, 'op' | 'call' | 'result'> & { key: number }): void {
    const end = result === undefined ? undefined : this.#ground.loop.nowUs
    this.#clients.history.push({ client: this.#name, key: `k${key}`, op, call, return: end, result })
  }

  /** What it is doing has an unknown outcome. */
  giveUp(): void {
    const doing = this.#doing
    this.#doing = undefined
    if (doing === undefined || doing.op.kind === 'get') return
    this.#record({ op: doing.op, key: doing.key, call: doing.call, result: undefined })
    this.#session = this.#clients.newSession()
    this.#sequence = 0
  }
}
