/**
 * The same closed loop against each contender in turn, several times, on one machine in one run: what is compared is
 * medians, and CPU per call, which a busy neighbour disturbs less than rates.
 */

import type { Contender } from './contender.ts'
import { median, pause, rounded, say } from './figures.ts'
import { load, type LoadFigures } from './load.ts'

export interface ComparePlan {
  readonly kind: 'put' | 'read'
  readonly clients: number
  readonly seconds: number
  readonly warmSeconds: number
  readonly runs: number
  /** Directory for CPU profiles of the clients. */
  readonly profile?: string | undefined
}

/** One run in the shape that is kept. */
function shown(figures: LoadFigures, members: number) {
  const perCall = 1e6 / figures.calls
  return {
    perSecond: rounded(figures.calls / figures.seconds),
    p50Ms: rounded(figures.p50, 2),
    p99Ms: rounded(figures.p99, 2),
    maxMs: rounded(figures.max, 1),
    cpuMicrosecondsPerCall: {
      leader: rounded(figures.leaderCpu * perCall),
      eachFollower: rounded(((figures.daemonCpu - figures.leaderCpu) * perCall) / (members - 1)),
      client: rounded(figures.clientCpu * perCall),
      all: rounded((figures.daemonCpu + figures.clientCpu) * perCall),
    },
    failures: figures.failures,
  }
}

type Shown = ReturnType<typeof shown>

function mediansOf(runs: readonly Shown[]) {
  const of = (pick: (run: Shown) => number): number => rounded(median(runs.map(pick)), 2)
  return {
    perSecond: of((run) => run.perSecond),
    p50Ms: of((run) => run.p50Ms),
    p99Ms: of((run) => run.p99Ms),
    cpuMicrosecondsPerCall: of((run) => run.cpuMicrosecondsPerCall.all),
  }
}

/** Runs the loop against each contender in turn. `ratio` is that of the first two contenders' rates. */
export async function compare(contenders: readonly Contender[], plan: ComparePlan) {
  const { kind, clients } = plan
  const runs = new Map<string, Shown[]>(contenders.map(({ name }) => [name, []]))
  const nodeArgs = plan.profile === undefined ? [] : ['--cpu-prof', '--cpu-prof-dir', plan.profile]
  for (let run = 0; run < plan.runs; run++) {
    for (const contender of run % 2 === 0 ? contenders : [...contenders].reverse()) {
      const task = { kind, clients, seconds: plan.seconds, warmSeconds: plan.warmSeconds }
      const result = shown(await load(contender, task, nodeArgs), contender.members.length)
      runs.get(contender.name)?.push(result)
      const { leader, eachFollower, client } = result.cpuMicrosecondsPerCall
      const failed = result.failures > 0 ? `, ${result.failures} FAILED` : ''
      say(
        `${kind} at ${clients}: ${contender.name.padEnd(8)} ${result.perSecond}/s, p50 ${result.p50Ms} ms, p99 ${result.p99Ms} ms, ` +
          `CPU us a call: leader ${leader}, follower ${eachFollower}, client ${client}${failed}`,
      )
      await pause(500)
    }
  }
  const medians = new Map([...runs].map(([name, list]) => [name, mediansOf(list)]))
  const [first, second] = contenders.map(({ name }) => medians.get(name)?.perSecond)
  const ratio = first === undefined || second === undefined ? undefined : rounded(first / second, 2)
  if (ratio !== undefined) say(`${kind} at ${clients}: ${ratio} times ${contenders[1]?.name}`)
  return { kind, clients, ratio, medians: Object.fromEntries(medians), runs: Object.fromEntries(runs) }
}
