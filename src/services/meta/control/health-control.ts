/**
 * Health of nodes, carried out: feeds the pure core with what sessions and probes show, dials nodes when it asks for a
 * probe, and fences a node that is down by a committed entry.
 *
 * Invariant: a node is treated as down by others only once `nodeDown` is committed (the disk records say so); until then
 * it is at most suspected, which only moves load away.
 */

import { HealthWatch, type HealthEvent, type HealthVerdict } from '../../../core/health/health.ts'
import { isStoreError } from '../../../model/errors.ts'
import type { NodeId } from '../../../model/ids.ts'
import { storageMethods } from '../../../wire/methods.ts'
import type { Sessions } from './sessions.ts'
import { Alarm, type Term } from './term.ts'
import type { NodeView, Topology } from './topology.ts'

const probeTimeoutMs = 500

export class HealthControl {
  readonly #term: Term
  readonly #topology: Topology
  readonly #sessions: Sessions
  readonly #watch: HealthWatch
  readonly #alarm: Alarm

  constructor(term: Term, topology: Topology, sessions: Sessions) {
    this.#term = term
    this.#topology = topology
    this.#sessions = sessions
    this.#watch = new HealthWatch(term.config.health)
    this.#alarm = new Alarm(term, () => this.feed({ kind: 'time' }))
  }

  /** Every node of the metadata gets the time a new one has to be heard. */
  start(): void {
    for (const node of this.#topology.nodes.values()) {
      this.#known(node)
    }
  }

  #known(node: NodeView): void {
    const health = node.record.health === 'down' ? 'down' : 'up'
    // The watch gives no verdict about what it is told, so the view is told here as well.
    this.#topology.setHealth(node.id, health)
    this.feed({ kind: 'known', node: node.id, health })
  }

  feed(event: HealthEvent): void {
    for (const verdict of this.#watch.feed(event, this.#term.nowMs())) this.#carryOut(verdict)
    this.#alarm.set(this.#watch.nextMs())
  }

  silentMs(node: NodeId): number {
    return this.#watch.silentMs(node, this.#term.nowMs()) ?? 0
  }

  /** The committed record of a node changed: it may be new, and a session that a fence overtook must register again. */
  recordChanged(node: NodeView): void {
    const down = node.record.health === 'down'
    if (this.#watch.silentMs(node.id, this.#term.nowMs()) === undefined) this.#known(node)
    else if (down !== (this.#watch.health(node.id) === 'down') && this.#sessions.of(node.id) === undefined) {
      // It registered after it was down, or was declared down after it came back, and has no stream that speaks for it.
      // One that registered is up with its first heartbeat; until then its silence counts.
      const health = down ? 'down' : 'suspected'
      this.feed({ kind: 'known', node: node.id, health })
      this.#topology.setHealth(node.id, health)
    }
    if (!down) return
    this.#topology.setHealth(node.id, 'down')
    this.#sessions.fence(node.id, 'it was declared down')
  }

  #carryOut(verdict: HealthVerdict): void {
    const { node } = verdict
    if (verdict.kind === 'probe') {
      this.#term.run('probe a node', () => this.#probe(node))
      return
    }
    if (verdict.kind === 'down') {
      this.#term.log.warn('node down', { node, reason: verdict.reason })
      this.#topology.setHealth(node, 'suspected')
      this.#term.run('fence a node', () => this.#fence(node))
      return
    }
    this.#term.log[verdict.kind === 'up' ? 'info' : 'warn'](`node ${verdict.kind}`, { node, reason: verdict.reason })
    this.#topology.setHealth(node, verdict.kind)
  }

  async #fence(node: NodeId): Promise<void> {
    const incarnation = this.#topology.nodes.get(node)?.record.incarnation
    if (incarnation === undefined) return
    const reply = await this.#term.propose({ kind: 'nodeDown', node, incarnation })
    if (!reply.ok) this.#term.log.warn('node was not fenced', { node, code: reply.code, reason: reply.message })
    // The effect of the entry refreshes the view, but a node that never registered here has no session to end.
    this.#topology.nodeChanged(node)
  }

  async #probe(node: NodeId): Promise<void> {
    const addresses = this.#topology.nodes.get(node)?.record.addresses ?? []
    let outcome: 'alive' | 'refused' | 'silent' = 'silent'
    for (const address of addresses) {
      outcome = await this.#dial(address)
      if (outcome === 'alive') break
    }
    if (!this.#term.over) this.feed({ kind: 'probed', node, outcome })
  }

  /** Any answer means that the process lives, whatever it thinks of chunk 0. */
  async #dial(address: string): Promise<'alive' | 'refused' | 'silent'> {
    try {
      const request = { id: 0, offset: 0, length: 0, disk: 0 }
      await this.#term.env.net.call(address, storageMethods.getChunk, request, { timeoutMs: probeTimeoutMs })
      return 'alive'
    } catch (error) {
      if (isStoreError(error) && error.code === 'UNAVAILABLE') return 'refused'
      return isStoreError(error) && error.code === 'TIMEOUT' ? 'silent' : 'alive'
    }
  }
}
