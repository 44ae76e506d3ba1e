/**
 * What the simulator's command line asks of its workers: one run of one seed at one level, and how it ended.
 *
 * Runs on the worker's side; everything that crosses is plain data.
 */

import { simulate, SimFailure } from '../src/sim/cluster.ts'
import type { FaultKind } from '../src/sim/nemesis.ts'
import { drawPlan } from '../src/sim/raft/draw.ts'
import { planOf, type RaftPlan, shortPlan } from '../src/sim/raft/plan.ts'
import { shrinkPlan } from '../src/sim/raft/shrink.ts'
import { RaftFailure, simulatePlan } from '../src/sim/raft/simulate.ts'
import type { StorageKind } from '../src/sim/swarm.ts'
import { turns } from './turns.ts'

export type Level = 'raft' | 'cluster'

/** One run. */
export interface Task {
  readonly level: Level
  readonly seed: number
  /** How long things break, in virtual milliseconds. */
  readonly chaosMs: number
  /** End the run here, whatever has come to pass; undefined: at its own end. */
  readonly untilMs?: number | undefined
  readonly trace: boolean
  readonly faults?: readonly FaultKind[] | undefined
  readonly clients?: number | undefined
  readonly storage?: StorageKind | undefined
  /** Scenario of the Raft level to run instead of the one that the seed draws: what a file holds, as JSON. */
  readonly scenario?: string | undefined
  /** Run it a second time and compare. */
  readonly twice: boolean
  /** Of a failing run of Raft: so many smaller ones are tried. */
  readonly shrinkRuns?: number | undefined
}

/** What was drawn in a run that failed, for shrinking it. */
export interface Drawn {
  readonly faults: readonly FaultKind[]
  readonly clients: number
  readonly storage: StorageKind
}

/** How a run ended. */
export type Ended =
  | { readonly kind: 'passed'; readonly line: string; readonly events: number; readonly level: Level }
  | {
      readonly kind: 'failed'
      readonly reason: string
      readonly drawn?: Drawn | undefined
      /** What a failing run of Raft was shrunk to, as the content of a scenario file. */
      readonly scenario?: string | undefined
    }

/** What a worker says: lines of the trace, then how the run ended. */
export type Report = { readonly kind: 'trace'; readonly line: string } | Ended

const healMs = 120_000

function traceLine(timeMs: number, who: string, text: string): string {
  return `${timeMs.toFixed(3).padStart(12)}  ${who.padEnd(8)} ${text}`
}

function hex(hash: number): string {
  return hash.toString(16).padStart(8, '0')
}

function differ(): Error {
  return new Error('two runs of the same seed differ: something reads the real world')
}

async function runCluster(task: Task, trace: (line: string) => void): Promise<Ended> {
  const { seed, chaosMs, untilMs, faults, clients, storage } = task
  const startMs = performance.now()
  const options = { seed, turns, chaosMs, untilMs, healMs, faults, clients, storage }
  const shown = (timeMs: number, who: string, text: string): void => trace(traceLine(timeMs, who, text))
  const result = await simulate({ ...options, trace: task.trace ? shown : undefined })
  if (task.twice && (await simulate(options)).hash !== result.hash) throw differ()
  const seconds = ((performance.now() - startMs) / 1000).toFixed(1)
  const { events, virtualMs, operations, applied, plan } = result
  const line = `cluster seed ${seed}: ${events} events, ${virtualMs} ms virtual in ${seconds} s, ${operations} operations, applied ${applied}, hash ${hex(result.hash)}; ${plan}`
  return { kind: 'passed', line, events, level: 'cluster' }
}

/** The smallest plan that fails as the task's did. */
function shrunkScenario(task: Task, error: unknown): string | undefined {
  if (task.level !== 'raft' || (task.shrinkRuns ?? 0) === 0 || !(error instanceof RaftFailure)) return undefined
  const { plan } = shrinkPlan(planOfTask(task), task.shrinkRuns ?? 0)
  return JSON.stringify(shortPlan(plan))
}

function drawnOf(error: unknown): Drawn | undefined {
  if (!(error instanceof SimFailure)) return undefined
  const { faults, clients, storage } = error
  return { faults, clients, storage }
}

function reasonOf(error: unknown): string {
  const cause = error instanceof SimFailure ? error.cause : error
  return cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)
}

function planOfTask({ seed, scenario, untilMs }: Task): RaftPlan {
  const plan = scenario === undefined ? drawPlan(seed) : planOf(JSON.parse(scenario))
  return untilMs === undefined ? plan : { ...plan, untilUs: Math.min(plan.untilUs, untilMs * 1000) }
}

function runRaft(task: Task, trace: (line: string) => void): Ended {
  const startMs = performance.now()
  const plan = planOfTask(task)
  const shown = (timeMs: number, who: string, text: string): void => trace(traceLine(timeMs, who, text))
  const result = simulatePlan(plan, task.trace ? { trace: shown } : {})
  if (task.twice && simulatePlan(plan).hash !== result.hash) throw differ()
  const seconds = ((performance.now() - startMs) / 1000).toFixed(2)
  const { events, virtualMs, operations, committed } = result
  const line = `raft seed ${plan.seed}: ${events} events, ${virtualMs} ms virtual in ${seconds} s, ${operations} operations, ${committed} committed, hash ${hex(result.hash)}; ${result.plan}`
  return { kind: 'passed', line, events, level: 'raft' }
}

/** Carries a task out; never rejects. */
export async function runTask(task: Task, trace: (line: string) => void): Promise<Ended> {
  try {
    return task.level === 'raft' ? runRaft(task, trace) : await runCluster(task, trace)
  } catch (error) {
    return { kind: 'failed', reason: reasonOf(error), drawn: drawnOf(error), scenario: shrunkScenario(task, error) }
  }
}
