/**
 * A cluster of real processes for a bench, and what those processes cost: CPU seconds and resident memory by pid, read
 * from /proc (Linux).
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'

export interface ClusterFile {
  readonly clusterId: string
  readonly meta: readonly { readonly id: string; readonly address: string; readonly pid: number }[]
  readonly storage: readonly {
    readonly id: string
    readonly address: string
    readonly zone: string
    readonly pid: number
    readonly disks: readonly string[]
  }[]
}

export interface BenchCluster {
  readonly file: ClusterFile
  readonly process: ChildProcess
  stop(): Promise<void>
}

export const cliPath: string = resolve(import.meta.dirname, '../../src/main/cli.js')

/** Starts `holdfast up` in `directory` and resolves when it says that it is ready. */
export async function startCluster(directory: string, args: readonly string[] = []): Promise<BenchCluster> {
  const child = spawn(process.execPath, [cliPath, 'up', '--dir', directory, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const exited = new Promise<void>((done) => child.once('exit', () => done()))
  await new Promise<void>((ready, reject) => {
    let output = ''
    child.stdout?.on('data', (piece: Buffer) => {
      output += piece.toString()
      if (output.includes('holdfast is ready')) ready()
    })
    child.once('exit', (code) => reject(new Error(`holdfast up ended with ${code}: ${output}`)))
  })
  const file = JSON.parse(await readFile(join(directory, 'cluster.json'), 'utf8')) as ClusterFile
  return {
    file,
    process: child,
    stop: async () => {
      child.kill('SIGTERM')
      await exited
    },
  }
}

/** Sends `signal` to a child that still runs and waits for its end. */
export async function endProcess(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = new Promise<void>((done) => child.once('exit', () => done()))
  child.kill(signal)
  await exited
}

/** CPU seconds, user and system, that the process has used; 0 when it is gone. */
export function cpuSeconds(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
    return (Number(fields[11]) + Number(fields[12])) / 100
  } catch {
    return 0
  }
}

/** Peak resident memory of the process in MiB; 0 when it is gone. */
export function peakMebibytes(pid: number): number {
  try {
    const match = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
    return match === null ? 0 : Math.round(Number(match[1]) / 1024)
  } catch {
    return 0
  }
}

export function clusterPids(file: ClusterFile): number[] {
  return [...file.meta, ...file.storage].map((node) => node.pid)
}

export interface RunResult {
  readonly seconds: number
  readonly cpu: number
  readonly peakMebibytes: number
  readonly stdout: string
}

/** Runs one command line to its end; its own CPU and peak memory are sampled while it lives. */
export async function runCli(args: readonly string[]): Promise<RunResult> {
  const start = process.hrtime.bigint()
  const child = spawn(process.execPath, [cliPath, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  let stdout = ''
  let cpu = 0
  let peak = 0
  child.stdout.on('data', (piece: Buffer) => {
    stdout += piece.toString()
  })
  const sample = setInterval(() => {
    if (child.pid === undefined) return
    cpu = Math.max(cpu, cpuSeconds(child.pid))
    peak = Math.max(peak, peakMebibytes(child.pid))
  }, 50)
  const code = await new Promise<number | null>((done) => child.once('exit', done))
  clearInterval(sample)
  if (code !== 0) throw new Error(`holdfast ${args.join(' ')} ended with ${code}`)
  return { seconds: Number(process.hrtime.bigint() - start) / 1e9, cpu, peakMebibytes: peak, stdout }
}
