/**
 * One load that goes on while the bench does things to the cluster: a process of its own that puts 1 KiB of metadata in a
 * closed loop and tells, second by second, how many were acknowledged and how long they took. So a quiet phase and a busy
 * one are measured by the same process, warm in both.
 *
 * Latencies travel as counts by logarithmic class (2 % wide), so that quantiles of any span of seconds are those of all its
 * calls and not means of quantiles.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { connectMeta } from './meta-cluster.ts'
import { nowMs, pause, rounded } from './figures.ts'

const valueBytes = 1024
const keysEach = 1024
const connections = 8
const classWidth = Math.log(1.02)
const leastMs = 0.01
const windowMs = 1000

interface Task {
  readonly addresses: readonly string[]
  readonly clients: number
}

/** What a second of load saw. */
interface Window {
  readonly calls: number
  readonly failures: number
  /** Class and count, in turn. */
  readonly classes: readonly number[]
}

/** A span of seconds. */
export interface SpanFigures {
  readonly seconds: number
  readonly perSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly maxMs: number
  readonly failures: number
  /** Highest p99 of a single second. */
  readonly worstSecondP99Ms: number
}

function classOf(ms: number): number {
  return Math.max(0, Math.round(Math.log(ms / leastMs) / classWidth))
}

function msOf(class_: number): number {
  return leastMs * Math.exp(class_ * classWidth)
}

/** The load process: runs until its stdin ends. */
export async function runSteadyLoad(text: string): Promise<never> {
  const task = JSON.parse(text) as Task
  const value = randomBytes(valueBytes).toString('base64').slice(0, valueBytes)
  const opened = await Promise.all(Array.from({ length: connections }, () => connectMeta(task.addresses, value)))
  let counts = new Map<number, number>()
  let calls = 0
  let failures = 0
  let over = false
  const client = async (number: number): Promise<void> => {
    for (let n = 0; !over; n++) {
      const start = nowMs()
      try {
        await opened[number % connections]?.put(`k${number}-${n % keysEach}`)
        const class_ = classOf(nowMs() - start)
        counts.set(class_, (counts.get(class_) ?? 0) + 1)
        calls++
      } catch {
        failures++
        await pause(1)
      }
    }
  }
  const timer = setInterval(() => {
    const window: Window = { calls, failures, classes: [...counts].flat() }
    counts = new Map()
    calls = 0
    failures = 0
    process.stdout.write(`${JSON.stringify(window)}\n`)
  }, windowMs)
  process.stdin.on('end', () => {
    over = true
  })
  process.stdin.resume()
  await Promise.all(Array.from({ length: task.clients }, (_, number) => client(number)))
  clearInterval(timer)
  process.exit(0)
}

function countsOf(windows: readonly Window[]): [number, number][] {
  const sum = new Map<number, number>()
  for (const { classes } of windows) {
    for (let i = 0; i < classes.length; i += 2) {
      const class_ = classes[i] as number
      sum.set(class_, (sum.get(class_) ?? 0) + (classes[i + 1] as number))
    }
  }
  return [...sum].sort((a, b) => a[0] - b[0])
}

function quantileOf(counts: readonly [number, number][], share: number): number {
  const total = counts.reduce((sum, [, count]) => sum + count, 0)
  let seen = 0
  for (const [class_, count] of counts) {
    seen += count
    if (seen >= total * share) return msOf(class_)
  }
  return Number.NaN
}

function figuresOf(windows: readonly Window[]): SpanFigures {
  const counts = countsOf(windows)
  const seconds = windows.length
  const calls = windows.reduce((sum, window) => sum + window.calls, 0)
  const last = counts.at(-1)
  return {
    seconds,
    perSecond: rounded(calls / seconds),
    p50Ms: rounded(quantileOf(counts, 0.5), 1),
    p99Ms: rounded(quantileOf(counts, 0.99), 1),
    maxMs: last === undefined ? Number.NaN : rounded(msOf(last[0]), 1),
    failures: windows.reduce((sum, window) => sum + window.failures, 0),
    worstSecondP99Ms: rounded(Math.max(...windows.map((window) => quantileOf(countsOf([window]), 0.99))), 1),
  }
}

/** A running load, seen from the bench. */
export class SteadyLoad {
  readonly #child: ChildProcess
  readonly #windows: Window[] = []
  readonly #ended: Promise<void>

  constructor(addresses: readonly string[], clients: number) {
    const task: Task = { addresses, clients }
    this.#child = spawn(process.execPath, [process.argv[1] as string, '--steady', JSON.stringify(task)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    this.#ended = new Promise((resolve) => this.#child.once('close', () => resolve()))
    let text = ''
    this.#child.stdout?.on('data', (piece: Buffer) => {
      const lines = (text + piece.toString()).split('\n')
      text = lines.pop() ?? ''
      for (const line of lines) this.#windows.push(JSON.parse(line) as Window)
    })
  }

  /** Seconds told so far: the beginning of a span. */
  get at(): number {
    return this.#windows.length
  }

  /** Everything since `from`. */
  since(from: number): SpanFigures {
    return figuresOf(this.#windows.slice(from))
  }

  /** Resolves after so many more seconds were told. */
  async wait(seconds: number): Promise<void> {
    for (const end = this.at + seconds; this.at < end; ) await pause(50)
  }

  async stop(): Promise<void> {
    this.#child.stdin?.end()
    await this.#ended
  }
}
