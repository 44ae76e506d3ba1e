/**
 * Figures of a bench: quantiles, medians, CPU accounting by process, and what a results file says of the machine.
 */

import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { join, resolve } from 'node:path'
import { cpuSeconds } from './processes.ts'

/** Progress goes to stderr, results to stdout and files. */
export const say = (line: string): boolean => process.stderr.write(`${line}\n`)

/** Milliseconds of a monotonic clock. */
export const nowMs = (): number => Number(process.hrtime.bigint()) / 1e6

export const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms))

/** The value below which the part `share` of `sorted` lies. */
export function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  const high = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? high : ((sorted[middle - 1] ?? Number.NaN) + high) / 2
}

export function rounded(value: number, digits = 0): number {
  const scale = 10 ** digits
  return Math.round(value * scale) / scale
}

/** CPU seconds of several processes together. */
export function cpuOf(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0)
}

/** Resident memory of the process now, in MiB; 0 when it is gone. */
export function residentMebibytes(pid: number): number {
  try {
    const match = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
    return match === null ? 0 : Math.round(Number(match[1]) / 1024)
  } catch {
    return 0
  }
}

const root = resolve(import.meta.dirname, '../../..')

function gitCommit(): string {
  try {
    const commit = execFileSync('git', ['rev-parse', '--short=12', 'HEAD'], { cwd: root, encoding: 'utf8' }).trim()
    const changed = execFileSync('git', ['status', '--porcelain'], { cwd: root, encoding: 'utf8' }).trim() !== ''
    return changed ? `${commit}, with changes` : commit
  } catch {
    return 'unknown'
  }
}

/** Where and of what a result was measured. */
export function circumstances(): Record<string, unknown> {
  return {
    at: new Date().toISOString(),
    commit: gitCommit(),
    node: process.version,
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
  }
}

/** Writes `bench/results/NAME-DATE.json` and returns its path. */
export function writeResults(name: string, content: object): string {
  const directory = join(root, 'bench/results')
  mkdirSync(directory, { recursive: true })
  const stamp = new Date().toISOString().replaceAll(/[-:]/g, '').slice(0, 13)
  const path = join(directory, `${name}-${stamp}.json`)
  writeFileSync(path, `${JSON.stringify(content, undefined, 2)}\n`)
  return path
}
