/**
 * Snapshots on their way from one node to another: a stream of its own for each, piece by piece. A stream breaks when its
 * link is cut, when an end dies, and sometimes for no reason; a piece can be damaged, which its receiver notices.
 * Invariant: both ends hear how it ended, each once, unless they died.
 */

import { Prng } from '../../base/prng.ts'
import type { NodeId } from '../../model/ids.ts'
import { Seeded } from '../seed.ts'
import type { Transfer } from './installs.ts'
import type { Loop } from './loop.ts'
import type { RaftNet } from './net.ts'
import type { SimNode } from './node.ts'
import type { RaftPlan } from './plan.ts'

/** A paused receiver is waited for so many times. */
const waitsMax = 20

interface Stream {
  readonly transfer: Transfer
  readonly receiver: SimNode
  /** Life of the receiver that began to receive. */
  life: number
  finish: ((whole: boolean) => void) | undefined
  waits: number
  over: boolean
}

export class Transfers {
  readonly #loop: Loop
  readonly #plan: RaftPlan
  readonly #net: RaftNet
  readonly #random: Seeded
  readonly #nodeOf: (id: NodeId) => SimNode | undefined
  readonly #streams = new Set<Stream>()
  /** Streams do not break by themselves any more. */
  healed = false

  constructor(loop: Loop, plan: RaftPlan, net: RaftNet, nodeOf: (id: NodeId) => SimNode | undefined) {
    this.#loop = loop
    this.#plan = plan
    this.#net = net
    this.#nodeOf = nodeOf
    this.#random = new Seeded(new Prng(plan.seed).fork('transfers'))
  }

  carry(transfer: Transfer): void {
    const receiver = this.#nodeOf(transfer.offer.to)
    if (receiver === undefined) {
      this.#loop.after(this.#plan.machine.pieceUs, 'piece', undefined, () => transfer.ended(false))
      return
    }
    const stream: Stream = { transfer, receiver, life: receiver.life, finish: undefined, waits: 0, over: false }
    this.#streams.add(stream)
    this.#later(stream, 0)
  }

  #later(stream: Stream, piece: number): void {
    const { minUs, meanUs } = this.#plan.net
    const delayUs = this.#plan.machine.pieceUs + minUs + meanUs * this.#random.unit()
    this.#loop.after(delayUs, 'piece', undefined, () => this.#arrives(stream, piece), stream.transfer.offer)
  }

  #arrives(stream: Stream, piece: number): void {
    const { transfer, receiver } = stream
    const { from, to } = transfer.offer
    if (stream.over) return
    if (receiver.paused && stream.waits++ < waitsMax) {
      this.#later(stream, piece)
      return
    }
    const unlucky = !this.healed && this.#random.chance(this.#plan.net.loss / 4)
    if (unlucky || receiver.paused || receiver.state !== 'up' || this.#net.isCut(from, to)) {
      this.#break(stream)
      return
    }
    if (piece === 0) {
      stream.life = receiver.life
      stream.finish = receiver.offered(transfer)
      if (stream.finish === undefined) {
        this.#end(stream, false)
        return
      }
    }
    if (piece + 1 < this.#plan.machine.pieces) this.#later(stream, piece + 1)
    else stream.finish?.(true)
  }

  /** The receiver has installed the snapshot, or given up. */
  answered(transfer: Transfer, installed: boolean): void {
    for (const stream of this.#streams) {
      if (stream.transfer !== transfer || stream.over) continue
      const { from, to } = transfer.offer
      this.#end(stream, installed && !this.#net.isCut(to, from))
    }
  }

  /** A process ended: its streams break. */
  died(node: SimNode): void {
    for (const stream of this.#streams) {
      if (stream.receiver === node || stream.transfer.offer.from === node.id) this.#break(stream)
    }
  }

  #break(stream: Stream): void {
    if (stream.over) return
    const { receiver, finish } = stream
    this.#end(stream, false)
    if (finish === undefined || receiver.life !== stream.life) return
    // The receiver hears of it like of anything else.
    this.#loop.after(this.#plan.machine.pieceUs, 'lost', receiver, () => finish(false))
  }

  #end(stream: Stream, installed: boolean): void {
    stream.over = true
    this.#streams.delete(stream)
    this.#loop.after(this.#plan.machine.pieceUs, 'piece', undefined, () => stream.transfer.ended(installed))
  }
}
