/**
 * The leader's end of one node's stream: orders down, results up.
 *
 * Every order carries the fence, a number that is unique in the term, and a deadline that is shorter on the node than
 * here, so that an order is never given up here while the node may still carry it out. A result is matched by order
 * number on the stream the order went out on; anything else is ignored, so a late result of an old stream means nothing.
 * Bounds: `ordersMax` orders outstanding on a stream, `pagesMax` pages of a report that are not looked at yet. The stream
 * itself is never paused: whoever looks at a page may need an answer that comes behind the next pages, and heartbeats do.
 */

import { isErrorCode, StoreError } from '../../../model/errors.ts'
import { type ChunkId, type DiskNumber, leaseSpan, type NodeId } from '../../../model/ids.ts'
import { limits } from '../../../model/limits.ts'
import type { Timer } from '../../../ports/clock.ts'
import type { Duplex } from '../../../ports/net.ts'
import type { holdfast } from '../../../wire/messages.ts'
import type { Term } from './term.ts'

export type NodeStream = Duplex<holdfast.v1.MetaOrder.$Properties, holdfast.v1.NodeMessage>
export type OrderBody = Pick<holdfast.v1.MetaOrder.$Properties, 'check' | 'copy' | 'verify' | 'delete' | 'scrub'>

export interface OrderDone {
  /** Generation of the disk that the result was reached under. */
  readonly generation: number
  readonly ids: readonly ChunkId[]
  readonly bytes: number
}

/** One page of held ids: all that the disk holds in [from, until). */
export interface ReportPage {
  readonly from: ChunkId
  readonly until: ChunkId
  readonly ids: readonly ChunkId[]
}

/** How far one order of a report came. */
interface ReportPart {
  readonly until: ChunkId
  readonly ids: number
  /** More pages came than were taken in. */
  readonly cut: boolean
}

interface Outstanding {
  readonly timer: Timer
  done(result: OrderDone): void
  page(report: holdfast.v1.RangeReport): void
  fail(error: StoreError): void
}

const ordersMax = 256
/** As many full pages as one lease's ids can fill. */
const pagesMax = 16
/** Ids that one order of a report is meant to bring. */
const partIds = (pagesMax / 2) * limits.reportPageMax
const spanGrowthMax = 1024

export class Orders {
  readonly node: NodeId
  readonly #term: Term
  readonly #stream: NodeStream
  readonly #nextOrder: () => number
  readonly #outstanding = new Map<number, Outstanding>()
  #closed: StoreError | undefined

  constructor(term: Term, node: NodeId, stream: NodeStream, nextOrder: () => number) {
    this.node = node
    this.#term = term
    this.#stream = stream
    this.#nextOrder = nextOrder
  }

  /**
   * Gives one order. Rejects with what the node answered, TIMEOUT when it did not answer, UNAVAILABLE when the stream
   * went away (the order may have been carried out), OVERLOADED when too many orders are outstanding.
   */
  give(body: OrderBody, deadlineMs: number): Promise<OrderDone> {
    return new Promise((resolve, reject) => {
      const page = (): void => undefined
      this.#send(body, deadlineMs, { done: resolve, page, fail: reject })
    })
  }

  /**
   * Asks for the ids that a disk holds in [from, to). `take` gets the pages in order, one at a time. The range is asked
   * for in parts that fit `pagesMax`, as far as can be guessed; what comes beyond that is dropped and asked for again.
   * Resolves after the last page was taken. `deadlineMs` is that of each part.
   */
  async report(
    disk: DiskNumber,
    from: ChunkId,
    to: ChunkId,
    deadlineMs: number,
    take: (page: ReportPage) => Promise<void>,
  ): Promise<void> {
    let cursor = from
    let span = leaseSpan
    while (cursor < to) {
      const part = await this.#reportPart(disk, cursor, to - cursor > span ? cursor + span : to, deadlineMs, take)
      cursor = part.until
      span = part.cut ? leaseSpan : nextSpan(span, part.ids)
    }
  }

  #reportPart(
    disk: DiskNumber,
    from: ChunkId,
    to: ChunkId,
    deadlineMs: number,
    take: (page: ReportPage) => Promise<void>,
  ): Promise<ReportPart> {
    return new Promise((resolve, reject) => {
      let order = 0
      let cursor = from
      let waiting = 0
      let ids = 0
      let cut = false
      let taken: Promise<void> = Promise.resolve()
      order = this.#send({ reportRange: { disk, from, to } }, deadlineMs, {
        done: () => reject(new StoreError('INTERNAL', `report of disk ${disk}: node ${this.node} ended it early`)),
        fail: reject,
        page: (report) => {
          const page = pageOf(report, cursor, to)
          if (page === undefined) {
            this.close(new StoreError('INVALID_ARGUMENT', `report of disk ${disk}: the page is out of order`))
            return
          }
          if (waiting === pagesMax) {
            cut = true
            this.#take(order)
            return
          }
          waiting++
          ids += page.ids.length
          cursor = page.until
          if (cursor >= to) this.#take(order)
          taken = taken
            .then(() => take(page))
            .then(() => {
              waiting--
              if (waiting === 0 && (cut || cursor >= to)) resolve({ until: cursor, ids, cut })
            })
          taken.catch((error: unknown) => {
            this.#take(order)
            reject(error)
          })
        },
      })
    })
  }

  onResult(result: holdfast.v1.OrderResult): void {
    const waiting = this.#take(result.order)
    if (waiting === undefined) return
    if (result.code !== '') {
      const code = isErrorCode(result.code) ? result.code : 'INTERNAL'
      waiting.fail(new StoreError(code, result.message === '' ? `node ${this.node} failed an order` : result.message))
    } else waiting.done({ generation: result.generation, ids: [...result.ids], bytes: result.bytes })
  }

  onReport(report: holdfast.v1.RangeReport): void {
    this.#outstanding.get(report.order)?.page(report)
  }

  /** Ends the stream; every outstanding order rejects. */
  close(error: StoreError): void {
    if (this.#closed !== undefined) return
    this.gone(error)
    this.#stream.destroy(error)
  }

  /** The stream is gone; every outstanding order rejects. */
  gone(error: StoreError): void {
    if (this.#closed !== undefined) return
    this.#closed = new StoreError('UNAVAILABLE', `node ${this.node} is not attached: ${error.message}`)
    for (const order of this.#outstanding.keys()) this.#take(order)?.fail(this.#closed)
  }

  #take(order: number): Outstanding | undefined {
    const waiting = this.#outstanding.get(order)
    this.#outstanding.delete(order)
    waiting?.timer.cancel()
    return waiting
  }

  /** The number of the order; 0 when it was refused. */
  #send(
    body: Omit<holdfast.v1.MetaOrder.$Properties, 'body'>,
    deadlineMs: number,
    waiting: Omit<Outstanding, 'timer'>,
  ): number {
    if (this.#closed !== undefined) {
      waiting.fail(this.#closed)
      return 0
    }
    if (this.#outstanding.size >= ordersMax) {
      waiting.fail(new StoreError('OVERLOADED', `node ${this.node} has ${ordersMax} orders to do already`))
      return 0
    }
    const order = this.#nextOrder()
    const timer = this.#term.after(deadlineMs * 1.5 + 1000, () => {
      this.#take(order)?.fail(new StoreError('TIMEOUT', `node ${this.node} did not answer an order in time`))
    })
    this.#outstanding.set(order, { ...waiting, timer })
    this.#stream.send({ ...body, order, term: this.#term.fence, deadlineMs })
    return order
  }
}

/** Ids to ask for next, when the last `span` of them held `ids`. */
function nextSpan(span: number, ids: number): number {
  const growth = Math.min(spanGrowthMax, partIds / Math.max(1, ids))
  return Math.min(Math.max(leaseSpan, Math.floor(span * growth)), Number.MAX_SAFE_INTEGER)
}

/** Undefined when the page does not go on where the last one ended, or its ids are not sorted within it. */
function pageOf(report: holdfast.v1.RangeReport, from: ChunkId, to: ChunkId): ReportPage | undefined {
  if (report.ids.length > limits.reportPageMax || report.until <= from || report.until > to) return undefined
  let last = from - 1
  for (const id of report.ids) {
    if (!Number.isSafeInteger(id) || id <= last || id >= report.until) return undefined
    last = id
  }
  return { from, until: report.until, ids: [...report.ids] }
}
