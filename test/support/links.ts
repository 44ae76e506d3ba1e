/**
 * The network between the meta nodes of a test cluster: every node is reached through its own proxy, which knows who
 * connects, so that each directed link can be blocked by itself. Clients pass as `client` and are left alone unless named.
 */

import { connectionOwner } from './connection-owner.ts'
import { freePort } from './processes.ts'
import { type LinkFaults, TcpProxy } from './tcp-proxy.ts'

export class Links {
  readonly #proxies = new Map<string, TcpProxy>()
  readonly #pids: () => ReadonlyMap<string, number>

  /** `pids`: the running processes by node name. */
  constructor(pids: () => ReadonlyMap<string, number>) {
    this.#pids = pids
  }

  /** Puts a proxy in front of the node that listens on `targetPort`; resolves to the port that others use. */
  async add(id: string, targetPort: number): Promise<number> {
    const port = await freePort()
    const owner = (from: number, to: number): string => connectionOwner(from, to, this.#pids()) ?? 'client'
    this.#proxies.set(id, await TcpProxy.open(port, targetPort, owner))
    return port
  }

  #proxy(id: string): TcpProxy {
    const proxy = this.#proxies.get(id)
    if (proxy === undefined) throw new Error(`no proxy in front of ${id}`)
    return proxy
  }

  /** Who is connected to `id` now. */
  sources(id: string): string[] {
    return this.#proxy(id).sources()
  }

  /** Everything that `from` sends to `to` is held, on whoever's connection it travels. */
  block(from: string, to: string): void {
    this.#proxies.get(to)?.set(from, { holdThere: true })
    this.#proxies.get(from)?.set(to, { holdBack: true })
  }

  /** Nothing passes between `ids` and the other nodes, either way. */
  isolate(...ids: readonly string[]): void {
    for (const id of ids) {
      for (const other of this.#proxies.keys()) {
        if (ids.includes(other)) continue
        this.block(id, other)
        this.block(other, id)
      }
    }
  }

  /** `id` sends, and hears nobody. */
  deafen(id: string): void {
    for (const other of this.#proxies.keys()) if (other !== id) this.block(other, id)
  }

  /** `id` hears, and nobody hears it. */
  mute(id: string): void {
    for (const other of this.#proxies.keys()) if (other !== id) this.block(id, other)
  }

  /** Changes the faults of the connections that `from` makes to `to`. */
  set(from: string, to: string, faults: Partial<LinkFaults>): void {
    this.#proxy(to).set(from, faults)
  }

  /** Every piece between meta nodes takes so much longer. */
  delayAll(delayMs: number): void {
    for (const [to, proxy] of this.#proxies) {
      for (const from of this.#proxies.keys()) if (from !== to) proxy.set(from, { delayMs })
    }
  }

  /** Resets every connection between meta nodes. */
  cut(): void {
    for (const proxy of this.#proxies.values()) for (const from of this.#proxies.keys()) proxy.cut(from)
  }

  /** Ends all faults. What was held arrives late; with `lose` it is lost and its connections are reset. */
  heal(lose = false): void {
    if (lose) this.cut()
    for (const proxy of this.#proxies.values()) proxy.heal()
  }

  async close(): Promise<void> {
    await Promise.all([...this.#proxies.values()].map(async (proxy) => await proxy.close()))
  }
}
