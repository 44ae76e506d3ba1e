/**
 * The network of the Raft simulator: frames of messages on directed links, with loss, duplication, delay, cuts, clogs,
 * resets, and copies of old frames that arrive once more.
 *
 * Two modes. `datagram` is what the core has to bear: anything may be lost, doubled and reordered. `stream` is what the
 * real transport gives: order is kept and nothing is lost, until a reset takes all that is under way and both ends hear of
 * it. What happens to a frame depends only on its link and its number on it.
 */

import { Prng } from '../../base/prng.ts'
import { decodeMessage, encodeMessage, type Message } from '../../core/raft/messages.ts'
import type { NodeId } from '../../model/ids.ts'
import { Seeded } from '../seed.ts'
import type { Loop } from './loop.ts'
import type { RaftPlan } from './plan.ts'

/** Who speaks to whom. */
export interface FrameHead {
  readonly from: NodeId
  readonly incarnation: string
  /** Index of the sender's newest configuration. */
  readonly configIndex: number
  readonly to: NodeId
}

export interface Frame extends FrameHead {
  readonly messages: readonly Message[]
  /** `from>to#number`. */
  readonly name: string
}

interface Link {
  readonly name: string
  readonly random: Seeded
  count: number
  /** Stream mode: nothing arrives before this. */
  lastUs: number
  /** Rises with every reset: what was under way is gone. */
  epoch: number
  cuts: number
  clogs: number
  readonly held: Frame[]
}

/** Frames that are kept to be sent again, and that may be under way at once. */
const recordedMax = 300
const flyingMax = 50_000

export interface NetHandlers {
  arrived(frame: Frame): void
  /** The stream from `from` to `to` broke: `from` hears of it. */
  broken(from: NodeId, to: NodeId): void
  /** Something that must not be: ends the run. */
  fail(what: string): never
}

export class RaftNet {
  readonly #loop: Loop
  readonly #plan: RaftPlan['net']
  readonly #seed: Prng
  readonly #replays: Seeded
  readonly #drops: ReadonlySet<string>
  readonly #handlers: NetHandlers
  readonly #links = new Map<string, Link>()
  readonly #recorded: Frame[] = []
  #loss: number
  #duplicate: number
  #late: number
  #healed = false
  #flying = 0
  messages = 0

  constructor(loop: Loop, plan: RaftPlan, handlers: NetHandlers) {
    this.#loop = loop
    this.#plan = plan.net
    this.#seed = new Prng(plan.seed).fork('link')
    this.#replays = new Seeded(new Prng(plan.seed).fork('replay'))
    this.#drops = new Set(plan.net.drops)
    this.#handlers = handlers
    this.#loss = plan.net.loss
    this.#duplicate = plan.net.duplicate
    this.#late = plan.net.late
  }

  #link(from: NodeId, to: NodeId): Link {
    const name = `${from}>${to}`
    const known = this.#links.get(name)
    if (known !== undefined) return known
    const random = new Seeded(this.#seed.fork(name))
    const link: Link = { name, random, count: 0, lastUs: 0, epoch: 0, cuts: 0, clogs: 0, held: [] }
    this.#links.set(name, link)
    return link
  }

  send(head: FrameHead, messages: readonly Message[]): void {
    const link = this.#link(head.from, head.to)
    this.messages += messages.length
    const name = `${link.name}#${++link.count}`
    const frame: Frame = { ...head, messages: this.#encoded(messages), name }
    const { random } = link
    const lost = random.chance(this.#loss)
    const doubled = random.chance(this.#duplicate)
    const delay = this.#delay(random)
    const second = this.#delay(random)
    this.#record(frame, random)
    if (this.#drops.has(name)) return
    if (this.#plan.mode === 'stream') {
      if (link.cuts > 0 || link.clogs > 0) {
        link.held.push(frame)
        return
      }
      link.lastUs = Math.max(link.lastUs, this.#loop.nowUs + delay)
      this.#fly(link, frame, link.lastUs - this.#loop.nowUs)
      return
    }
    if (link.cuts > 0 || lost) return
    if (link.clogs > 0) {
      link.held.push(frame)
      return
    }
    this.#fly(link, frame, delay)
    if (doubled) this.#fly(link, frame, second)
  }

  #encoded(messages: readonly Message[]): readonly Message[] {
    if (!this.#plan.codec) return messages
    return messages.map((message) => decodeMessage(encodeMessage(message), message.from, message.to))
  }

  #delay(random: Seeded): number {
    const { minUs, meanUs } = this.#plan
    const usual = minUs - Math.log(1 - random.unit()) * (this.#healed ? Math.min(meanUs, 1000) : meanUs)
    return random.chance(this.#late) ? usual * 10 : usual
  }

  /** Keeps some of what was sent, old ones too. */
  #record(frame: Frame, random: Seeded): void {
    if (this.#recorded.length < recordedMax) this.#recorded.push(frame)
    else if (random.chance(0.2)) this.#recorded[random.below(recordedMax)] = frame
  }

  #fly(link: Link, frame: Frame, delayUs: number): void {
    const { epoch } = link
    if (++this.#flying > flyingMax) this.#handlers.fail(`${flyingMax} frames are under way: a message storm`)
    this.#loop.after(
      delayUs,
      'frame',
      undefined,
      () => {
        this.#flying--
        if (link.epoch === epoch) this.#handlers.arrived(frame)
      },
      frame,
    )
  }

  /** Old frames arrive once more. Only datagrams do that. */
  replay(count: number): void {
    if (this.#plan.mode === 'stream' || this.#recorded.length === 0) return
    for (let i = 0; i < count; i++) {
      const frame = this.#replays.pick(this.#recorded)
      const link = this.#link(frame.from, frame.to)
      if (link.cuts === 0 && link.clogs === 0) this.#fly(link, frame, this.#delay(this.#replays))
    }
  }

  cut(from: NodeId, to: NodeId, clog: boolean): void {
    const link = this.#link(from, to)
    if (clog) link.clogs++
    else link.cuts++
  }

  mend(from: NodeId, to: NodeId, clog: boolean): void {
    const link = this.#link(from, to)
    if (clog) link.clogs--
    else link.cuts--
    if (link.cuts > 0 || link.clogs > 0) return
    // A stream that stood still for long breaks as often as it goes on.
    if (!clog && this.#plan.mode === 'stream' && link.random.chance(0.5)) this.#break(link, from, to)
    else this.#release(link)
  }

  #release(link: Link): void {
    for (const frame of link.held.splice(0)) {
      link.lastUs = Math.max(link.lastUs, this.#loop.nowUs + this.#delay(link.random))
      this.#fly(link, frame, link.lastUs - this.#loop.nowUs)
    }
  }

  #break(link: Link, from: NodeId, to: NodeId): void {
    link.epoch++
    link.held.length = 0
    this.#handlers.broken(from, to)
  }

  isCut(from: NodeId, to: NodeId): boolean {
    const link = this.#links.get(`${from}>${to}`)
    return link !== undefined && link.cuts + link.clogs > 0
  }

  /** Resets the stream from `from` to `to`: what is under way is lost. */
  reset(from: NodeId, to: NodeId): void {
    const link = this.#link(from, to)
    if (link.cuts + link.clogs === 0) this.#break(link, from, to)
  }

  /** What is under way is lost; from now on nothing is lost, doubled, late, cut or clogged. */
  heal(): void {
    this.#healed = true
    this.#loss = 0
    this.#duplicate = 0
    this.#late = 0
    for (const link of this.#links.values()) {
      link.cuts = 0
      link.clogs = 0
      link.epoch++
      link.held.length = 0
    }
  }
}
