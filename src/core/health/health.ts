/**
 * Health of storage nodes from evidence: heartbeats, broken streams, probes, silence.
 *
 * up -> suspected: the stream broke, or nothing was heard for `suspectMs`. suspected -> down: `refusalsDown` probes in
 * a row were refused (nothing listens there), or nothing was heard for `downMs`. Anything -> up: the node is attached
 * and was heard. Why a refusal counts for more than silence: a refused connection is an answer by the machine that the
 * process is gone, silence may be a slow network. A node that said goodbye is not probed: it is restarting, and only
 * its silence can make it down.
 *
 * Pure: time comes with each event; `nextMs` says when `time` has to be fed. A node is down until it attaches again.
 */

import { IndexedHeap } from '../../base/heap.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Health } from '../../model/words.ts'

export interface HealthTimes {
  readonly suspectMs: number
  readonly downMs: number
}

export type HealthEvent =
  /** The node is known from the metadata: taken as just heard, so that a new leader gives everyone time to attach. */
  | { readonly kind: 'known'; readonly node: NodeId; readonly health: Health }
  /** The node registered on a stream. */
  | { readonly kind: 'attached'; readonly node: NodeId }
  /** Any message of an attached node. */
  | { readonly kind: 'heard'; readonly node: NodeId }
  /** Its stream is gone; `orderly` when it said goodbye first. */
  | { readonly kind: 'lost'; readonly node: NodeId; readonly orderly: boolean }
  /** `alive`: it answered anything. `refused`: nothing listens. `silent`: no answer in time. */
  | { readonly kind: 'probed'; readonly node: NodeId; readonly outcome: 'alive' | 'refused' | 'silent' }
  | { readonly kind: 'time' }

export type HealthVerdict =
  | { readonly kind: 'up' | 'suspected' | 'down'; readonly node: NodeId; readonly reason: string }
  /** Dial the node and feed `probed`. At most one is outstanding for a node. */
  | { readonly kind: 'probe'; readonly node: NodeId }

/** Probes in a row that must be refused. */
export const refusalsDown = 3
const refusedProbeMs = 300
const otherProbeMs = 1000

interface Watched {
  readonly id: NodeId
  health: Health
  attached: boolean
  orderly: boolean
  heardMs: number
  refusals: number
  probing: boolean
  /** When to probe next; infinite while there is no reason to. */
  probeMs: number
}

export class HealthWatch {
  readonly #times: HealthTimes
  readonly #nodes = new Map<NodeId, Watched>()
  readonly #deadlines = new IndexedHeap<NodeId, number>((a, b) => a - b)

  constructor(times: HealthTimes) {
    this.#times = times
  }

  /** `down` for a node that was never seen. */
  health(node: NodeId): Health {
    return this.#nodes.get(node)?.health ?? 'down'
  }

  /** Time since the node was last heard; undefined for one that never was. */
  silentMs(node: NodeId, nowMs: number): number | undefined {
    const watched = this.#nodes.get(node)
    return watched === undefined ? undefined : Math.max(0, nowMs - watched.heardMs)
  }

  /** When `time` is to be fed next; undefined when nothing is pending. */
  nextMs(): number | undefined {
    return this.#deadlines.peek()?.value
  }

  feed(event: HealthEvent, nowMs: number): HealthVerdict[] {
    if (event.kind === 'time') return this.#time(nowMs)
    const known = this.#nodes.get(event.node)
    if (known === undefined && event.kind !== 'known' && event.kind !== 'attached') return []
    const watched = known ?? this.#watch(event.node, nowMs)
    const verdicts: HealthVerdict[] = []
    if (event.kind === 'known') learn(watched, event.health, nowMs)
    else if (event.kind === 'attached') this.#attached(watched, nowMs, verdicts)
    else if (event.kind === 'heard') heard(watched, nowMs, verdicts)
    else if (event.kind === 'lost') this.#lost(watched, event.orderly, nowMs, verdicts)
    else this.#probed(watched, event.outcome, nowMs, verdicts)
    this.#schedule(watched)
    return verdicts
  }

  #watch(id: NodeId, nowMs: number): Watched {
    const watched: Watched = {
      id,
      health: 'up',
      attached: false,
      orderly: false,
      heardMs: nowMs,
      refusals: 0,
      probing: false,
      probeMs: Number.POSITIVE_INFINITY,
    }
    this.#nodes.set(id, watched)
    return watched
  }

  #attached(watched: Watched, nowMs: number, verdicts: HealthVerdict[]): void {
    watched.attached = true
    watched.orderly = false
    if (watched.health !== 'up') verdicts.push({ kind: 'up', node: watched.id, reason: 'registered' })
    settleUp(watched, nowMs)
  }

  #lost(watched: Watched, orderly: boolean, nowMs: number, verdicts: HealthVerdict[]): void {
    if (!watched.attached) return
    watched.attached = false
    watched.orderly = orderly
    if (watched.health === 'down') return
    this.#suspect(watched, orderly ? 'said goodbye' : 'its stream broke', nowMs, verdicts)
  }

  #suspect(watched: Watched, reason: string, nowMs: number, verdicts: HealthVerdict[]): void {
    if (watched.health === 'up') {
      watched.health = 'suspected'
      verdicts.push({ kind: 'suspected', node: watched.id, reason })
    }
    if (!watched.orderly) watched.probeMs = nowMs
    this.#probeIfDue(watched, nowMs, verdicts)
  }

  #probeIfDue(watched: Watched, nowMs: number, verdicts: HealthVerdict[]): void {
    if (watched.health !== 'suspected' || watched.probing || watched.probeMs > nowMs) return
    watched.probing = true
    watched.probeMs = Number.POSITIVE_INFINITY
    verdicts.push({ kind: 'probe', node: watched.id })
  }

  #probed(watched: Watched, outcome: 'alive' | 'refused' | 'silent', nowMs: number, verdicts: HealthVerdict[]): void {
    watched.probing = false
    if (watched.health !== 'suspected') return
    watched.refusals = outcome === 'refused' ? watched.refusals + 1 : 0
    if (watched.refusals >= refusalsDown) {
      this.#down(watched, `nothing listens at its address (${refusalsDown} probes refused)`, verdicts)
      return
    }
    watched.probeMs = nowMs + (outcome === 'refused' ? refusedProbeMs : otherProbeMs)
  }

  #down(watched: Watched, reason: string, verdicts: HealthVerdict[]): void {
    watched.health = 'down'
    watched.probeMs = Number.POSITIVE_INFINITY
    verdicts.push({ kind: 'down', node: watched.id, reason })
  }

  #time(nowMs: number): HealthVerdict[] {
    const verdicts: HealthVerdict[] = []
    for (;;) {
      const first = this.#deadlines.peek()
      if (first === undefined || first.value > nowMs) return verdicts
      const watched = this.#nodes.get(first.key)
      this.#deadlines.pop()
      if (watched === undefined || watched.health === 'down') continue
      const silentMs = nowMs - watched.heardMs
      // Compared as `#schedule` computes it: `nowMs - heardMs >= downMs` can round the other way and never be reached.
      if (nowMs >= watched.heardMs + this.#times.downMs) {
        if (watched.health === 'up') verdicts.push({ kind: 'suspected', node: watched.id, reason: 'silent' })
        this.#down(watched, `silent for ${Math.round(silentMs)} ms`, verdicts)
      } else if (watched.health === 'up' && nowMs >= watched.heardMs + this.#times.suspectMs) {
        this.#suspect(watched, `silent for ${Math.round(silentMs)} ms`, nowMs, verdicts)
      } else this.#probeIfDue(watched, nowMs, verdicts)
      this.#schedule(watched)
    }
  }

  #schedule(watched: Watched): void {
    if (watched.health === 'down') {
      this.#deadlines.delete(watched.id)
      return
    }
    const silenceMs = watched.heardMs + (watched.health === 'up' ? this.#times.suspectMs : this.#times.downMs)
    // A probe under way ends with its outcome; its due time must not come again meanwhile, or time would stand still.
    const probeMs = watched.probing ? Number.POSITIVE_INFINITY : watched.probeMs
    this.#deadlines.set(watched.id, Math.min(silenceMs, probeMs))
  }
}

function learn(watched: Watched, health: Health, nowMs: number): void {
  watched.health = health
  watched.heardMs = nowMs
  watched.refusals = 0
}

function heard(watched: Watched, nowMs: number, verdicts: HealthVerdict[]): void {
  // A fenced node must register again before anything it says counts.
  if (!watched.attached || watched.health === 'down') return
  if (watched.health === 'suspected') verdicts.push({ kind: 'up', node: watched.id, reason: 'heard again' })
  settleUp(watched, nowMs)
}

function settleUp(watched: Watched, nowMs: number): void {
  watched.health = 'up'
  watched.heardMs = nowMs
  watched.refusals = 0
  watched.probeMs = Number.POSITIVE_INFINITY
}
