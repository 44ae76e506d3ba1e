/** Faults that the system itself injects, by strace: where it is installed and may trace. */

import { execFileSync, spawn } from 'node:child_process'
import { readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type EngineRuns, type LifeEnd } from './engine-runs.ts'

/** One kind of fault: what happens to the n-th of a kind of system call. */
export interface SystemFault {
  readonly call: string
  /** An error name, or KILL: the process is gone before the call is made. */
  readonly fault: string
  /** Only calls on these files. */
  readonly paths?: readonly string[]
  /** Puts and deletes of a life, when it takes more of them to come to such calls. */
  readonly steps?: number
}

let works: boolean | undefined

/** True when this process may run others under strace and have it inject faults. */
export function mayTrace(): boolean {
  try {
    works ??=
      execFileSync('strace', ['-f', '-o', '/dev/null', '-e', 'inject=fdatasync:error=EIO:when=9', 'true']).length === 0
  } catch {
    works = false
  }
  return works
}

/**
 * One life in which the fault happens to the `nth` such call of any of its threads (strace counts them apart; file work is
 * all in one). `fired` is false when there were not so many.
 */
export async function faultyLife(
  runs: EngineRuns,
  { call, fault, paths = [] }: SystemFault,
  nth: number,
  steps: number,
): Promise<LifeEnd & { readonly fired: boolean }> {
  const log = join(tmpdir(), `holdfast-strace-${process.pid}-${call}-${fault}-${nth}`)
  const what = fault === 'KILL' ? 'signal=KILL' : `error=${fault}`
  const under = ['strace', '-f', '-qq', '-o', log, '-e', `trace=${call}`, '-e', `inject=${call}:${what}:when=${nth}`]
  for (const path of paths) under.push('-P', join(runs.directory, path))
  try {
    const end = await runs.live({ seed: nth, steps }, { under, env: { UV_THREADPOOL_SIZE: '1' } })
    const trace = await readFile(log, 'utf8')
    return { ...end, fired: fault === 'KILL' ? /killed by SIGKILL/.test(trace) : trace.includes('(INJECTED)') }
  } finally {
    await rm(log, { force: true })
  }
}

/** Such calls of a running process on these files do not return until `end`. */
export async function stallCalls(
  pid: number,
  call: string,
  paths: readonly string[],
): Promise<{ readonly end: () => Promise<void> }> {
  const args = ['-f', '-p', String(pid), '-o', '/dev/null', '-e', `trace=${call}`]
  const child = spawn('strace', [
    ...args,
    '-e',
    `inject=${call}:delay_enter=3600000000`,
    ...paths.flatMap((path) => ['-P', path]),
  ])
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()))
  let said = ''
  await new Promise<void>((resolve, reject) => {
    child.stderr.on('data', (text: Buffer) => {
      said += text.toString()
      if (/attached/.test(said)) resolve()
    })
    ended.then(() => reject(new Error(`strace did not attach: ${said}`))).catch(reject)
  })
  return {
    end: async () => {
      child.kill('SIGKILL')
      await ended
    },
  }
}
