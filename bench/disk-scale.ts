/**
 * What a disk with very many chunks costs: time to open after a clean stop and after kill -9, and resident memory.
 *
 * Run: `node dist/bench/disk-scale.js [chunks] [directory]`; 1 million chunks by default, the goal is stated for 10 million.
 * The disk is filled by the real engine through its own puts, chunks of 64 bytes in the log and in the index, so that no
 * figure rests on a shortcut; records of larger chunks have the same size but for their block sums (8 bytes for 64 KiB).
 * Each step is a process of its own: fill and stop in order; open; open, write on, and be killed in the middle; open.
 */

import { fork } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { inParallel, openBenchDisk, putChunk } from './lib/engine.ts'

const MiB = 1024 * 1024
const options = { extentBytes: 256 * MiB, reserveBytes: 64 * MiB }
const chunkBytes = 64
const inFlight = 4096
/** Written after the last checkpoint that a clean stop made, before the kill. */
const dirtyChunks = 300_000

interface Figures {
  readonly openMs: number
  readonly chunks: number
  /** High-water mark of resident memory of the whole process. */
  readonly peakMiB: number
  readonly residentMiB: number
}

/** A figure of /proc/self/status in MiB; 0 where there is none. */
function memoryMiB(name: 'VmHWM' | 'VmRSS'): number {
  try {
    const found = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))
    return Math.round(Number(found?.[1] ?? 0) / 1024)
  } catch {
    return 0
  }
}

async function step(what: string, directory: string, from: number, count: number): Promise<void> {
  const start = performance.now()
  const { disk } = await openBenchDisk(directory, options)
  const openMs = performance.now() - start
  const chunk = new Uint8Array(chunkBytes).fill(7)
  if (what === 'crash') {
    let done = 0
    await inParallel(count, inFlight, async (i) => {
      await putChunk(disk, from + i, chunk)
      if (++done === Math.floor(count * 0.9)) process.kill(process.pid, 'SIGKILL')
    })
  } else await inParallel(count, inFlight, (i) => putChunk(disk, from + i, chunk))
  const { chunks } = disk.status()
  const figures: Figures = { openMs, chunks, peakMiB: memoryMiB('VmHWM'), residentMiB: memoryMiB('VmRSS') }
  await disk.close()
  process.send?.(figures)
}

/** Runs one step in a process of its own; undefined when that was killed. */
function run(what: string, directory: string, from: number, count: number): Promise<Figures | undefined> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(import.meta.url), ['--step', what, directory, String(from), String(count)])
    let figures: Figures | undefined
    child.on('message', (message) => {
      figures = message as Figures
    })
    child.on('exit', (code, signal) => {
      if (code === 0 || signal === 'SIGKILL') resolve(figures)
      else reject(new Error(`step ${what} ended with ${code ?? signal}`))
    })
  })
}

function show(name: string, figures: Figures | undefined): void {
  if (figures === undefined) return
  const { openMs, chunks, peakMiB, residentMiB } = figures
  console.log(
    `${name.padEnd(28)} open ${(openMs / 1000).toFixed(2).padStart(7)} s, ${chunks} chunks, resident ${residentMiB} MiB, at most ${peakMiB} MiB`,
  )
}

async function main(): Promise<void> {
  const count = Number(process.argv[2] ?? 1_000_000)
  const directory = await mkdtemp(join(process.argv[3] ?? tmpdir(), 'holdfast-scale-'))
  try {
    const start = performance.now()
    const filled = await run('fill', directory, 1, count)
    const seconds = (performance.now() - start) / 1000
    console.log(
      `${count} chunks of ${chunkBytes} bytes put in ${seconds.toFixed(0)} s, ${(count / seconds).toFixed(0)}/s`,
    )
    show('while filling', filled)
    show('after a clean stop', await run('open', directory, 0, 0))
    await run('crash', directory, count + 1, dirtyChunks)
    show('after kill -9', await run('open', directory, 0, 0))
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

const [mode, what, directory, from, count] = process.argv.slice(2)
if (mode === '--step' && what !== undefined && directory !== undefined)
  await step(what, directory, Number(from), Number(count))
else await main()
