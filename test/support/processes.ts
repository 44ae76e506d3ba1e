/**
 * Real processes for tests: one child per node, killed by its own pid, its output kept for the report of a failure.
 *
 * Conditions are waited for, never times. Ports are asked from the system: a port counts as free when it and the one 1000
 * above it (the node's HTTP port) are both free.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { resolve } from 'node:path'

/** The command line of this build. */
export const cliPath: string = resolve(import.meta.dirname, '../../src/main/cli.js')

/** How one command of the CLI ended. */
export interface Ended {
  /** Exit code; -1 when a signal ended it. */
  readonly code: number
  readonly signal: string | null
  readonly stdout: string
  readonly stderr: string
}

/** A running command of the CLI. */
export interface Running {
  readonly pid: number
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
  /** What it has written to stdout and stderr so far. */
  output(): string
}

/** What a child gets beside its arguments. */
export interface SpawnOptions {
  /** Goes to its stdin. */
  readonly input?: Uint8Array | string | undefined
  readonly cwd?: string | undefined
  /** The command line of another build. */
  readonly cli?: string | undefined
  /** Further environment variables. */
  readonly env?: Readonly<Record<string, string>> | undefined
}

/** The environment of every child: no colours, no settings of the machine. */
function environment(further: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith('HOLDFAST_'))
  return { ...Object.fromEntries(kept), NO_COLOR: '1', ...further }
}

/** Children that run; none outlives this process, however it ends. */
const children = new Set<ChildProcess>()
process.once('exit', () => {
  for (const child of children) child.kill('SIGKILL')
})

/** Starts `holdfast ARGS`. */
export function spawnCli(args: readonly string[], options: SpawnOptions = {}): Running {
  return start(process.execPath, ['--enable-source-maps', options.cli ?? cliPath, ...args], options)
}

/** Runs a shell script to its end; `$0` is node, `$1` the command line of this build, `$2` and so on are `args`. */
export async function shell(script: string, ...args: string[]): Promise<Ended> {
  return await start('sh', ['-c', script, process.execPath, cliPath, ...args]).ended
}

function start(program: string, args: readonly string[], options: SpawnOptions = {}): Running {
  const { cwd } = options
  const child = spawn(program, args, {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: environment(options.env),
    ...(cwd === undefined ? {} : { cwd }),
  })
  children.add(child)
  child.once('exit', () => children.delete(child))
  const stdout: Buffer[] = []
  const stderr: Buffer[] = []
  child.stdout.on('data', (piece: Buffer) => stdout.push(piece))
  child.stderr.on('data', (piece: Buffer) => {
    stderr.push(piece)
    if (stderr.length > 2000) stderr.splice(0, 1000)
  })
  child.stdin.on('error', () => {})
  child.stdin.end(options.input ?? '')
  const text = (pieces: Buffer[]): string => Buffer.concat(pieces).toString()
  const ended = new Promise<Ended>((done, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) =>
      done({ code: code ?? -1, signal, stdout: text(stdout), stderr: text(stderr) }),
    )
  })
  ended.catch(() => {})
  return { pid: child.pid ?? 0, child, ended, output: () => text(stdout) + text(stderr) }
}

/** Runs `holdfast ARGS` to its end. */
export async function runCli(args: readonly string[], input?: Uint8Array | string, cwd?: string): Promise<Ended> {
  return await spawnCli(args, { input, cwd }).ended
}

async function isFree(port: number): Promise<boolean> {
  return await new Promise((done) => {
    const server = createServer()
    server.once('error', () => done(false))
    server.listen(port, '127.0.0.1', () => server.close(() => done(true)))
  })
}

const given = new Set<number>()

/** A port that is free, and the one 1000 above it too; never the same one twice. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 20_000)
    if (given.has(port) || given.has(port - 1000) || given.has(port + 1000)) continue
    if (!(await isFree(port)) || !(await isFree(port + 1000))) continue
    given.add(port)
    return port
  }
}

/** Waits until `condition` gives something else than undefined or false; fails with `what` and the last error. */
export async function until<T>(
  what: string,
  condition: () => Promise<T | undefined | false> | T | undefined | false,
  timeoutMs = 30_000,
): Promise<T> {
  const endMs = performance.now() + timeoutMs
  let last: unknown
  for (;;) {
    try {
      const found = await condition()
      if (found !== undefined && found !== false) return found
      last = undefined
    } catch (error) {
      last = error
    }
    if (performance.now() > endMs) {
      const reason = last instanceof Error ? `: ${last.stack ?? last.message}` : ''
      throw new Error(`waited ${timeoutMs} ms for: ${what}${reason}`)
    }
    await new Promise((done) => setTimeout(done, 50))
  }
}

/** Highest resident memory of the process so far, in MiB; undefined when it is gone. Linux. */
export function peakResidentMiB(pid: number): number | undefined {
  return memoryMiB(pid, 'VmHWM')
}

/** Resident memory of the process now, in MiB; undefined when it is gone. Linux. */
export function residentMiB(pid: number): number | undefined {
  return memoryMiB(pid, 'VmRSS')
}

function memoryMiB(pid: number, field: string): number | undefined {
  try {
    const match = new RegExp(`${field}:\\s+(\\d+) kB`).exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
    return match === null ? undefined : Number(match[1]) / 1024
  } catch {
    return undefined
  }
}

/** Runs any command to its end and gives its exit code (127: it could not be started) and everything it printed. */
export async function runCommand(
  command: string,
  args: readonly string[],
  timeoutMs?: number,
): Promise<{ code: number; output: string }> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], timeout: timeoutMs })
  let output = ''
  child.stdout.on('data', (piece: Buffer) => (output += piece.toString()))
  child.stderr.on('data', (piece: Buffer) => (output += piece.toString()))
  return await new Promise((done) => {
    child.once('error', () => done({ code: 127, output }))
    child.once('close', (code) => done({ code: code ?? -1, output }))
  })
}
