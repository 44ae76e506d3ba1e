/**
 * Makes a failing run of the whole cluster smaller while it goes on failing for the same reason: fewer kinds of faults,
 * then a shorter time of chaos, then fewer clients, then models in place of real storage nodes.
 */

import type { FaultKind } from '../src/sim/nemesis.ts'
import type { Drawn, Ended, Task } from './sim-tasks.ts'

const chaosMinMs = 250

export interface Shrunk {
  readonly task: Task
  readonly reason: string
  readonly runs: number
}

/** What a failure is about: its first line, without numbers. */
function natureOf(reason: string): string {
  return (reason.split('\n')[0] ?? '').replace(/\d+/g, '#').slice(0, 60)
}

/** `run` runs a task; `runsMax` bounds how often. */
export async function shrink(
  failed: Task,
  drawn: Drawn,
  reason: string,
  run: (task: Task) => Promise<Ended>,
  runsMax: number,
): Promise<Shrunk> {
  let best: Task = {
    ...failed,
    trace: false,
    twice: false,
    faults: drawn.faults,
    clients: drawn.clients,
    storage: drawn.storage,
  }
  let found = reason
  let runs = 0

  /** Takes `candidate` when it fails too. */
  async function attempt(candidate: Task): Promise<boolean> {
    if (runs >= runsMax) return false
    runs++
    const ended = await run(candidate)
    if (ended.kind === 'passed' || natureOf(ended.reason) !== natureOf(reason)) return false
    best = candidate
    found = ended.reason
    return true
  }

  async function fewerFaults(): Promise<void> {
    for (const kind of best.faults ?? []) {
      const faults: readonly FaultKind[] = (best.faults ?? []).filter((other) => other !== kind)
      if (faults.length > 0) await attempt({ ...best, faults })
    }
  }

  async function shorter(): Promise<void> {
    let step = best.chaosMs / 2
    while (step >= chaosMinMs) {
      if (!(await attempt({ ...best, chaosMs: Math.round(best.chaosMs - step) }))) step /= 2
      else step = Math.min(step, best.chaosMs / 2)
    }
  }

  async function fewerClients(): Promise<void> {
    while ((best.clients ?? 0) > 1 && (await attempt({ ...best, clients: (best.clients ?? 0) - 1 })));
  }

  await fewerFaults()
  await shorter()
  await fewerClients()
  if (best.storage === 'real') await attempt({ ...best, storage: 'model' })
  await fewerFaults()
  return { task: best, reason: found, runs }
}
