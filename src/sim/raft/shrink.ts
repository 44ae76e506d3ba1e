/**
 * Makes a failing plan small while it goes on failing for the same reason: a shorter time, fewer faults, fewer clients and
 * operations, fewer nodes, a network and disks without troubles, ordinary limits, and at last single frames that do not
 * arrive. What is left is a scenario that can be read.
 */

import type { Fault, RaftPlan } from './plan.ts'
import { calmPlan } from './plan.ts'
import { RaftFailure, simulatePlan } from './simulate.ts'

export interface ShrunkPlan {
  readonly plan: RaftPlan
  readonly reason: string
  /** Events of the run that is left. */
  readonly events: number
  readonly runs: number
}

/** A run with more frames is not made smaller by leaving single ones out; and so many are left out at most. */
const framesMax = 400
const dropsMax = 24

/** What a failure is about, without its numbers. */
function natureOf(message: string): string {
  const [head = ''] = message.replace(/^at [\d.]+ ms: (broken invariant: )?/, '').split(': ')
  return head.replace(/\d+/g, '#').slice(0, 60)
}

/** `plan` fails. `runsMax` bounds how often a smaller one is tried. */
export function shrinkPlan(plan: RaftPlan, runsMax: number): ShrunkPlan {
  const shrinker = new Shrinker(plan, runsMax)
  shrinker.shorter()
  shrinker.fewerFaults()
  shrinker.simpler()
  shrinker.fewerFaults()
  shrinker.earlier()
  shrinker.shorter()
  shrinker.fewerFrames()
  return shrinker.result
}

class Shrinker {
  #best: RaftPlan
  #failure: RaftFailure
  readonly #nature: string
  readonly #runsMax: number
  #runs = 0

  constructor(plan: RaftPlan, runsMax: number) {
    this.#best = plan
    this.#runsMax = runsMax
    const failure = failureOf(plan)
    if (failure === undefined) throw new Error('shrink: the plan does not fail')
    this.#failure = failure
    this.#nature = natureOf(failure.message)
  }

  get result(): ShrunkPlan {
    const { message, events } = this.#failure
    return { plan: this.#best, reason: message, events, runs: this.#runs }
  }

  /** Takes `plan` when it fails in the same way. */
  #attempt(plan: RaftPlan): boolean {
    if (this.#runs >= this.#runsMax) return false
    this.#runs++
    const failure = failureOf(plan)
    if (failure === undefined || natureOf(failure.message) !== this.#nature) return false
    this.#best = plan
    this.#failure = failure
    return true
  }

  /** Ends at the failure, or earlier. */
  shorter(): void {
    const { atUs } = this.#failure
    if (atUs < this.#best.untilUs) this.#attempt(endingAt(this.#best, atUs + 1))
    for (let step = this.#best.untilUs / 2; step > this.#best.tickUs; step /= 2) {
      while (this.#best.untilUs > step && this.#attempt(endingAt(this.#best, this.#best.untilUs - step))) continue
    }
  }

  /** Moves all faults towards the start. */
  earlier(): void {
    const first = this.#best.faults[0]?.atUs ?? 0
    for (let step = first; step > this.#best.tickUs; step = Math.floor(step / 2)) {
      while ((this.#best.faults[0]?.atUs ?? 0) >= step && this.#attempt(shifted(this.#best, step))) continue
    }
  }

  /** Leaves faults out, half of them first, one by one at last. */
  fewerFaults(): void {
    for (let size = this.#best.faults.length; size >= 1; size = Math.floor(size / 2)) {
      for (let at = 0; at < this.#best.faults.length; ) {
        const { faults } = this.#best
        if (!this.#attempt({ ...this.#best, faults: without(faults, at, size) })) at += size
      }
    }
  }

  simpler(): void {
    for (const name of this.#best.clients) {
      const clients = this.#best.clients.filter((other) => other !== name)
      this.#attempt({ ...this.#best, clients })
    }
    while (this.#best.workload.operations > 1 && this.#attempt(withOperations(this.#best))) continue
    this.#attempt({ ...this.#best, workload: { ...this.#best.workload, keys: 1, anywhere: false, paddingMax: 0 } })
    while (this.#best.voters > 3 && this.#attempt({ ...this.#best, voters: this.#best.voters - 2 })) continue
    this.#attempt({ ...this.#best, learners: 0, ghosts: false, oldAnswers: false })
    const { net, disk, machine, limits } = calmPlan
    this.#attempt({ ...this.#best, net })
    for (const name of ['loss', 'duplicate', 'late', 'codec', 'minUs', 'meanUs', 'mode'] as const) {
      this.#attempt({ ...this.#best, net: { ...this.#best.net, [name]: net[name] } })
    }
    this.#attempt({ ...this.#best, disk })
    this.#attempt({ ...this.#best, machine })
    this.#attempt({ ...this.#best, limits })
    for (const name of Object.keys(limits) as (keyof typeof limits)[]) {
      this.#attempt({ ...this.#best, limits: { ...this.#best.limits, [name]: limits[name] } })
    }
  }

  /** Frames that need not arrive: each that makes a short run shorter is left out. */
  fewerFrames(): void {
    const frames = framesOf(this.#best)
    if (this.#best.net.mode === 'stream' || frames.length > framesMax) return
    for (const name of frames.toReversed()) {
      if (this.#runs >= this.#runsMax || this.#best.net.drops.length >= dropsMax) return
      const before = { plan: this.#best, failure: this.#failure }
      const drops = [...this.#best.net.drops, name]
      const fails = this.#attempt({ ...this.#best, net: { ...this.#best.net, drops } })
      if (!fails || this.#failure.events <= before.failure.events - 2) continue
      this.#best = before.plan
      this.#failure = before.failure
    }
  }
}

function failureOf(plan: RaftPlan): RaftFailure | undefined {
  try {
    simulatePlan(plan)
  } catch (error) {
    if (error instanceof RaftFailure) return error
    throw error
  }
  return undefined
}

/** Names of the frames of a failing run. */
function framesOf(plan: RaftPlan): string[] {
  const frames: string[] = []
  try {
    simulatePlan(plan, { frames })
  } catch (error) {
    if (!(error instanceof RaftFailure)) throw error
  }
  return frames
}

function endingAt(plan: RaftPlan, untilUs: number): RaftPlan {
  const end = Math.round(untilUs)
  return { ...plan, untilUs: end, faults: plan.faults.filter((fault) => fault.atUs <= end) }
}

function shifted(plan: RaftPlan, byUs: number): RaftPlan {
  return { ...plan, faults: plan.faults.map((fault) => ({ ...fault, atUs: fault.atUs - byUs })) }
}

function without(faults: readonly Fault[], at: number, size: number): Fault[] {
  return [...faults.slice(0, at), ...faults.slice(at + size)]
}

function withOperations(plan: RaftPlan): RaftPlan {
  const operations = Math.floor(plan.workload.operations / 2)
  return { ...plan, workload: { ...plan.workload, operations } }
}
