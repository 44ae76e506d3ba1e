/**
 * The state machine of the Raft simulator: a few registers with versions, client sessions, and a hash over everything
 * that was ever applied. Two replicas that applied the same prefix have the same hash, and no others have.
 *
 * Like the real one it is applied in memory first and synced behind: a power loss takes it back to what was synced.
 * Invariant: a command of a session is carried out once; sent again it gets its first answer.
 */

import type { Entry } from '../../core/raft/types.ts'
import { type Command, decodeCommand, entryHash, mix } from './command.ts'

/** What a client is told. */
export interface Answer {
  readonly ok: boolean
  /** 0: nothing is there. */
  readonly value: number
  /** Index of the write that was made or seen. */
  readonly version: number
}

interface Register {
  readonly value: number
  readonly version: number
}

/** An image of the state; never changed once made. */
export interface Image {
  readonly index: number
  readonly term: number
  readonly hash: number
  readonly registers: ReadonlyMap<number, Register>
  readonly sessions: ReadonlyMap<number, { readonly sequence: number; readonly answer: Answer }>
}

const emptyImage: Image = { index: 0, term: 0, hash: 1, registers: new Map(), sessions: new Map() }

/** What a witness is given: the place, and nothing of the state. */
export function markImage({ index, term }: Image): Image {
  return { ...emptyImage, index, term }
}

/** A command that had an effect, for those who watch. */
export type EffectWatcher = (command: Command, index: number) => void

export class Machine {
  #index = 0
  #term = 0
  #hash = 1
  #registers = new Map<number, Register>()
  #sessions = new Map<number, { sequence: number; answer: Answer }>()
  /** What a power loss leaves. */
  #durable: Image = emptyImage
  readonly #watch: EffectWatcher

  constructor(watch: EffectWatcher) {
    this.#watch = watch
  }

  get index(): number {
    return this.#index
  }

  get hash(): number {
    return this.#hash
  }

  get durableIndex(): number {
    return this.#durable.index
  }

  apply(entry: Entry): Answer | undefined {
    this.#index = entry.index
    this.#term = entry.term
    this.#hash = mix(mix(mix(this.#hash, entry.index), entry.term), entryHash(entry))
    if (entry.type !== 'command') return undefined
    const command = decodeCommand(entry.payload)
    if (command.kind === 'filler') return undefined
    const session = this.#sessions.get(command.session)
    if (session !== undefined && session.sequence >= command.sequence) return session.answer
    const answer = this.#carryOut(command, entry.index)
    this.#sessions.set(command.session, { sequence: command.sequence, answer })
    return answer
  }

  #carryOut(command: Command, index: number): Answer {
    const { kind, key, value, onVersion } = command
    const old = this.#registers.get(key)
    const there = old !== undefined && old.value !== 0
    const refused = (kind === 'cas' && (there ? old.version : 0) !== onVersion) || (kind === 'delete' && !there)
    this.#watch(command, index)
    if (refused) return { ok: false, value: old?.value ?? 0, version: old?.version ?? 0 }
    this.#registers.set(key, { value: kind === 'delete' ? 0 : value, version: index })
    return { ok: true, value: kind === 'delete' ? 0 : value, version: index }
  }

  read(key: number): Answer {
    const register = this.#registers.get(key)
    return { ok: true, value: register?.value ?? 0, version: register?.version ?? 0 }
  }

  /** The state as it is now. */
  image(): Image {
    return {
      index: this.#index,
      term: this.#term,
      hash: this.#hash,
      registers: new Map(this.#registers),
      sessions: new Map(this.#sessions),
    }
  }

  /** `image`, taken earlier, is on disk now. */
  synced(image: Image): void {
    if (image.index > this.#durable.index) this.#durable = image
  }

  /** Replaces everything, durably. */
  install(image: Image): void {
    this.#durable = image
    this.#load(image)
  }

  /** After a power loss: what was synced. After the end of the process alone, nothing is lost. */
  crash(power: boolean): void {
    if (power) this.#load(this.#durable)
    else this.#durable = this.image()
  }

  /** The disk was replaced. */
  wipe(): void {
    this.#durable = emptyImage
    this.#load(emptyImage)
  }

  #load(image: Image): void {
    this.#index = image.index
    this.#term = image.term
    this.#hash = image.hash
    this.#registers = new Map(image.registers)
    this.#sessions = new Map(image.sessions)
  }
}
