/**
 * A storage node as the controllers see it: it attaches, reports, does what it is ordered, and can lose, spoil and
 * forget chunks. Messages pass through the real codecs.
 */

import { StoreError } from '../../../../src/model/errors.ts'
import type { NodeStream } from '../../../../src/services/meta/control/orders.ts'
import type { holdfast } from '../../../../src/wire/messages.ts'
import { nodeMethods } from '../../../../src/wire/methods.ts'
import type { ManualClock } from '../../../support/manual-clock.ts'

type Message = holdfast.v1.NodeMessage.$Properties
type Order = holdfast.v1.MetaOrder

const gib = 2 ** 30

export function hex(number: number): string {
  return number.toString(16).padStart(32, '0')
}

/** One end of a stream whose other end is a fake node. */
class ServerEnd {
  closed = false
  deliver: (message: holdfast.v1.NodeMessage) => void = () => undefined
  over: (error: StoreError | undefined) => void = () => undefined
  #paused = false
  #held: holdfast.v1.NodeMessage[] = []
  readonly #toNode: (order: Order) => void
  readonly #endNode: (error: StoreError | undefined) => void

  constructor(toNode: (order: Order) => void, endNode: (error: StoreError | undefined) => void) {
    this.#toNode = toNode
    this.#endNode = endNode
  }

  stream(): NodeStream {
    return {
      send: (message) => {
        const bytes = nodeMethods.attach.encodeReply(message)
        queueMicrotask(() => {
          if (!this.closed) this.#toNode(nodeMethods.attach.decodeReply(bytes))
        })
        return true
      },
      end: () => this.close(undefined),
      destroy: (error) => this.close(error),
      pause: () => {
        this.#paused = true
      },
      traffic: () => ({ receivedBytes: 0, queuedBytes: 0 }),
      resume: () => {
        this.#paused = false
        for (const message of this.#held.splice(0)) this.#deliver(message)
      },
      onMessage: (handler) => {
        this.deliver = handler
      },
      onDrain: () => undefined,
      onEnd: () => undefined,
      onClose: (handler) => {
        this.over = handler
      },
    }
  }

  receive(message: Message): void {
    const bytes = nodeMethods.attach.encodeRequest(message)
    queueMicrotask(() => {
      if (!this.closed) this.#deliver(nodeMethods.attach.decodeRequest(bytes))
    })
  }

  /** What comes while the stream is paused waits, in order. */
  #deliver(message: holdfast.v1.NodeMessage): void {
    if (this.#paused) this.#held.push(message)
    else this.deliver(message)
  }

  close(error: StoreError | undefined): void {
    if (this.closed) return
    this.closed = true
    queueMicrotask(() => {
      this.over(error)
      this.#endNode(error)
    })
  }
}

/** What a node sees of the world it lives in. */
interface Surroundings {
  readonly clock: ManualClock
  readonly nodes: readonly FakeNode[]
  /** Chunks in the order in which copies of them were made. */
  readonly copied: number[]
  /** The leader takes the stream of a node. */
  accept(stream: NodeStream): void
}

/** A storage node with one disk. */
export class FakeNode {
  readonly id: string
  readonly zone: string
  diskId: string
  /** Chunks on its disk: with good bytes, with bad ones, or other content under the same id. */
  readonly chunks = new Map<number, 'good' | 'bad' | 'other'>()
  /** Orders it got, oldest first, in a short notation. */
  readonly orders: string[] = []
  readonly terms: number[] = []
  incarnation: string
  clusterId = ''
  termSeen = 0
  versionMax = 2
  freeForNewBytes = 99 * gib
  /** What it says of its disk's health. */
  state = 'ok'
  reason = ''
  syncUs = 1000
  faults: { path: string; reason: string }[] = []
  /** What it answers to orders to copy; empty: it copies. */
  copyCode = ''
  alive = false
  /** Orders are taken and never answered. */
  mute = false
  /** What it says of its scrub; undefined: an older program, which knows no such order either. */
  scrub: holdfast.v1.ScrubReport.$Properties | undefined
  /** Stays attached and sends no heartbeats. */
  silent = false
  /** How long it takes to send the first part of a report. */
  reportDelayMs = 0
  /** Ids in a page of a report. */
  pageIds = 4096
  /** How long it takes to answer a copy that is done. */
  copyAnswerMs = 0
  disk = 0
  generation = 0
  ended: StoreError | undefined
  corrupt: { chunk: number; disk: number; finding: string }[] = []
  readonly #around: Surroundings
  #end: ServerEnd | undefined
  #sequence = 0

  constructor(around: Surroundings, number: number, zone: string) {
    this.#around = around
    this.id = `s${number}`
    this.zone = zone
    this.diskId = hex(0xd000 + number)
    this.incarnation = hex(number)
  }

  get attached(): boolean {
    return this.#end !== undefined
  }

  /** Starts the process (a new incarnation) and attaches. */
  restart(): void {
    this.incarnation = hex(Number.parseInt(this.incarnation, 16) + 0x100)
    this.attach()
  }

  attach(): void {
    this.alive = true
    const end = new ServerEnd(
      (order) => this.#order(order, end),
      (error) => {
        this.ended = error
        if (this.#end === end) this.#end = undefined
      },
    )
    this.#around.accept(end.stream())
    end.receive({
      register: {
        node: this.id,
        clusterId: this.clusterId,
        addresses: [`${this.id}:1`],
        zone: this.zone,
        incarnation: this.incarnation,
        disks: [this.#report()],
        termSeen: this.termSeen,
        versionMax: this.versionMax,
      },
    })
    this.#end = end
  }

  /** Another, empty disk is in its place. */
  swapDisk(): void {
    this.diskId = hex(Number.parseInt(this.diskId, 16) + 0x1_0000)
    this.chunks.clear()
  }

  /** kill -9. */
  kill(): void {
    this.alive = false
    this.#end?.close(new StoreError('UNAVAILABLE', 'connection reset'))
    this.#end = undefined
  }

  /** The stream breaks, the process lives. */
  cut(): void {
    this.#end?.close(new StoreError('UNAVAILABLE', 'connection reset'))
    this.#end = undefined
  }

  /** Sends heartbeats again. */
  wake(): void {
    this.silent = false
    if (this.#end !== undefined) this.#beat(this.#end)
  }

  #report(): holdfast.v1.DiskReport.$Properties {
    return {
      id: this.diskId,
      state: this.state,
      reason: this.reason,
      syncUs: this.syncUs,
      capacityBytes: 100 * gib,
      usedBytes: gib,
      freeForNewBytes: this.freeForNewBytes,
      chunks: this.chunks.size,
      chunkIdMax: Math.max(0, ...this.chunks.keys()),
      clean: true,
      rebuilt: false,
      ...(this.scrub === undefined ? {} : { scrub: this.scrub }),
    }
  }

  #beat(end: ServerEnd): void {
    if (this.#end !== end || end.closed || this.silent) return
    const { corrupt, faults } = this
    end.receive({ heartbeat: { sequence: ++this.#sequence, disks: [this.#report()], corrupt, faults } })
    this.#around.clock.after(500, () => this.#beat(end))
  }

  #order(order: Order, end: ServerEnd): void {
    if (order.beat) {
      this.corrupt = []
      return
    }
    if (order.registered) {
      this.disk = order.registered.disks[0]?.number ?? 0
      this.generation = order.registered.disks[0]?.generation ?? 0
      this.#beat(end)
      return
    }
    this.terms.push(order.term)
    this.#note(order)
    if (this.mute) return
    if (order.reportRange) {
      const { from, to } = order.reportRange
      const held = [...this.chunks.keys()].filter((id) => id >= from && id < to).sort((a, b) => a - b)
      const send = (): void => {
        for (let at = 0; at === 0 || at < held.length; at += this.pageIds) {
          const ids = held.slice(at, at + this.pageIds)
          const until = held[at + this.pageIds] ?? to
          end.receive({ report: { order: order.order, disk: this.disk, ids, until } })
        }
      }
      if (this.reportDelayMs > 0 && from === 0) this.#around.clock.after(this.reportDelayMs, send)
      else send()
      return
    }
    const { code, ids } = this.#carryOut(order)
    const result = { order: order.order, code, message: code, generation: this.generation, ids, bytes: 0 }
    if (order.copy && this.copyAnswerMs > 0) this.#around.clock.after(this.copyAnswerMs, () => end.receive({ result }))
    else end.receive({ result })
  }

  #note(order: Order): void {
    if (order.copy) this.orders.push(`copy ${order.copy.chunk}${order.copy.replace ? ' replace' : ''}`)
    else if (order.verify) this.orders.push(`verify ${order.verify.ids.join(' ')}`)
    else if (order.check) this.orders.push(`check ${order.check.ids.join(' ')}`)
    else if (order.delete) this.orders.push(`delete ${order.delete.ids.join(' ')}`)
    else if (order.reportRange) this.orders.push('report')
    else if (order.scrub) this.orders.push(`scrub ${order.scrub.action}`)
  }

  #carryOut(order: Order): { code: string; ids: number[] } {
    if (order.copy && this.copyCode !== '') return { code: this.copyCode, ids: [] }
    const { check, verify } = order
    if (order.scrub) return { code: this.scrub === undefined ? 'INCOMPATIBLE_VERSION' : '', ids: [] }
    const isOther = (id: number, root?: Uint8Array): boolean => this.chunks.get(id) === 'other' && root?.length === 8
    if (check)
      return { code: '', ids: check.ids.filter((id, i) => !this.chunks.has(id) || isOther(id, check.roots[i])) }
    if (verify) {
      // Its own sums fit whatever it holds.
      const bad = (id: number, i: number): boolean => {
        const held = this.chunks.get(id)
        return held === undefined || held === 'bad' || isOther(id, verify.roots[i])
      }
      return { code: '', ids: verify.ids.filter(bad) }
    }
    if (order.delete) {
      if (order.delete.generation !== this.generation) return { code: 'FENCED', ids: [] }
      for (const id of order.delete.ids) this.chunks.delete(id)
      return { code: '', ids: [] }
    }
    if (!order.copy) return { code: 'INTERNAL', ids: [] }
    const { chunk, replace, sources } = order.copy
    const from = this.#around.nodes.find((node) => node.id === sources[0]?.node)
    if (from === undefined || !from.alive || from.chunks.get(chunk) !== 'good') return { code: 'CORRUPT', ids: [] }
    if (['bad', 'other'].includes(this.chunks.get(chunk) ?? '') && !replace) return { code: 'CONFLICT', ids: [] }
    this.chunks.set(chunk, 'good')
    this.#around.copied.push(chunk)
    return { code: '', ids: [] }
  }
}
