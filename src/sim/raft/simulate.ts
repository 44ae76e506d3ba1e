/**
 * The simulator of the Raft core: one plan (drawn from a seed, or read from a file) runs from the first election to the
 * healed cluster at its end, synchronously, the same way each time. Throws on the first broken invariant.
 */

import { checkLinearizable } from '../check/linearizable.ts'
import { drawPlan } from './draw.ts'
import { checkHealing } from './healing.ts'
import type { SimEvent } from './loop.ts'
import type { Frame } from './net.ts'
import type { RaftPlan } from './plan.ts'
import { traceEvent, type TraceLine } from './trace.ts'
import { RaftWorld } from './world.ts'

export interface RunOptions {
  readonly trace?: TraceLine | undefined
  /** Gets the names of the frames that arrived. */
  readonly frames?: string[] | undefined
}

export interface RaftResult {
  readonly seed: number
  /** Hash of all events and of the states they led to: equal for equal runs. */
  readonly hash: number
  readonly events: number
  readonly virtualMs: number
  /** Operations of clients that were answered or given up. */
  readonly operations: number
  /** Entries that were committed. */
  readonly committed: number
  readonly messages: number
  /** What kind of run it was. */
  readonly plan: string
}

/** A run that failed: what broke, when, and in which state of the trace's hash. */
export class RaftFailure extends Error {
  override readonly name = 'RaftFailure'
  readonly atUs: number
  readonly events: number

  constructor(cause: unknown, atUs: number, events: number) {
    super(`at ${(atUs / 1000).toFixed(3)} ms: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
    this.atUs = atUs
    this.events = events
  }
}

/** Steps that the search may take for one key; histories of a run are short. */
const searchSteps = 300_000

export function simulateRaft(options: { readonly seed: number } & RunOptions): RaftResult {
  return simulatePlan(drawPlan(options.seed), options)
}

export function simulatePlan(plan: RaftPlan, { trace, frames }: RunOptions = {}): RaftResult {
  let world: RaftWorld | undefined
  try {
    world = new RaftWorld(plan)
    const made = world
    const seen = (event: SimEvent): void => {
      made.seen(event)
      if (trace !== undefined) traceEvent(trace, event, made.nodes)
      if (frames !== undefined && event.kind === 'frame') frames.push((event.detail as Frame).name)
    }
    made.loop.run(plan.untilUs, seen)
    checkHealing(made, seen)
    made.clients.close()
    checkHistory(made)
    return resultOf(made)
  } catch (error) {
    throw new RaftFailure(error, world?.loop.nowUs ?? 0, world?.loop.events ?? 0)
  }
}

function checkHistory(world: RaftWorld): void {
  const { violations } = checkLinearizable(world.clients.history, searchSteps)
  const [first] = violations
  if (first !== undefined) world.oracles.fail(first)
}

function resultOf(world: RaftWorld): RaftResult {
  const { plan, loop, hash, clients, oracles, net } = world
  return {
    seed: plan.seed,
    hash,
    events: loop.events,
    virtualMs: Math.round(loop.nowUs / 1000),
    operations: clients.history.length,
    committed: oracles.committed,
    messages: net.messages,
    plan: describePlan(plan),
  }
}

function describePlan(plan: RaftPlan): string {
  const counts = new Map<string, number>()
  for (const { kind } of plan.faults) counts.set(kind, (counts.get(kind) ?? 0) + 1)
  const faults = [...counts].map(([kind, count]) => `${kind}${count > 1 ? `x${count}` : ''}`).join(' ')
  const size = `${plan.voters} voters${plan.witness ? ' and a witness' : ''}${plan.learners > 0 ? ' and a learner' : ''}`
  return `${size}, ${plan.net.mode}s, ${plan.clients.length} clients: ${faults === '' ? 'no faults' : faults}`
}
