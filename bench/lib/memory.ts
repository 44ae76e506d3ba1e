/**
 * Resident memory of a process by what it is (Linux): its own, and pages of files that it has mapped, which the system
 * takes back when it needs them. LevelDB maps its tables, so both are told.
 */

import { readFileSync } from 'node:fs'

export interface Memory {
  readonly residentMiB: number
  readonly anonymousMiB: number
  readonly fileMiB: number
  /** Highest resident memory so far. */
  readonly peakMiB: number
}

/** Zeros when the process is gone. */
export function memoryOf(pid: number): Memory {
  let text = ''
  try {
    text = readFileSync(`/proc/${pid}/status`, 'utf8')
  } catch {
    // It ended.
  }
  const of = (field: string): number =>
    Math.round(Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(text)?.[1] ?? 0) / 1024)
  return { residentMiB: of('VmRSS'), anonymousMiB: of('RssAnon'), fileMiB: of('RssFile'), peakMiB: of('VmHWM') }
}
