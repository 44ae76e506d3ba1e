/**
 * What a meta node has heard of its peers beside Raft's messages: the version their program supports, whether their disk
 * is almost full, where they are reached, and when they were heard last. Never stored.
 *
 * Invariant: bounded; beyond `peersMax` ids the one that was heard of first is forgotten, strangers before members.
 */

import { isAddress } from '../../model/address.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Clock } from '../../ports/clock.ts'

const peersMax = 64
const addressesMax = 8
/** A peer that speaks at all speaks at least twice in this time. */
const livelyMs = 2000

export interface PeerNews {
  /** Highest version of commands and formats that its program supports. */
  readonly versionMax: number
  readonly lowSpace: boolean
}

interface Page {
  news: PeerNews
  heardMs: number | undefined
  /** Where it said that it is reached. */
  addresses: readonly string[]
  /** The address that worked last. */
  worked: string | undefined
}

export class PeerBook {
  readonly #clock: Clock
  readonly #isMember: (id: NodeId) => boolean
  readonly #pages = new Map<NodeId, Page>()

  constructor(clock: Clock, isMember: (id: NodeId) => boolean) {
    this.#clock = clock
    this.#isMember = isMember
  }

  #page(id: NodeId): Page {
    const known = this.#pages.get(id)
    if (known !== undefined) return known
    if (this.#pages.size >= peersMax) {
      const ids = Array.from(this.#pages.keys())
      const forgotten = ids.find((other) => !this.#isMember(other)) ?? ids[0]
      if (forgotten !== undefined) this.#pages.delete(forgotten)
    }
    const news = { versionMax: 0, lowSpace: false }
    const page: Page = { news, heardMs: undefined, addresses: [], worked: undefined }
    this.#pages.set(id, page)
    return page
  }

  newsOf(id: NodeId): PeerNews | undefined {
    return this.#pages.get(id)?.news
  }

  heard(id: NodeId, news: PeerNews): void {
    const page = this.#page(id)
    page.news = news
    page.heardMs = this.#clock.monotonicMs()
  }

  heardVersion(id: NodeId, versionMax: number): void {
    const page = this.#page(id)
    page.news = { ...page.news, versionMax }
  }

  /** False for a peer that used to speak and is silent. */
  lively(id: NodeId): boolean {
    const heardMs = this.#pages.get(id)?.heardMs
    return heardMs === undefined || this.#clock.monotonicMs() - heardMs <= livelyMs
  }

  learned(id: NodeId, addresses: readonly string[]): void {
    const usable = addresses.filter(isAddress)
    if (usable.length > 0) this.#page(id).addresses = usable.slice(0, addressesMax)
  }

  worked(id: NodeId, address: string): void {
    this.#page(id).worked = address
  }

  /** Where to try `id`, best first: what worked last, what is `known`, what it said itself. */
  ordered(id: NodeId, known: readonly string[]): readonly string[] {
    const page = this.#pages.get(id)
    if (page === undefined) return known
    const worked = page.worked === undefined ? [] : [page.worked]
    return [...new Set([...worked, ...known, ...page.addresses])]
  }
}
