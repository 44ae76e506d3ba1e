/**
 * A process that does nothing but work on one disk, to be killed or to be failed by the system:
 * `node engine-child.js '{"directory": ..., ...}'`.
 *
 * It says each thing before it begins it and after it has it acknowledged, one line at a time, in writes that are over
 * before it goes on; so whoever reads the lines knows what a disk must hold, wherever they end.
 *
 * `B id seed length` a put begins, `A id` it is acknowledged; `D id` a delete begins, `d id` it is done; `H id sum` held at the
 * start, with the checksum of its bytes (or an error code); `E what CODE` refused; `open`, `loaded`, `settled`, `end`.
 * Exit codes are those of the command line. An error that is not typed is a stack trace and exit code 70.
 */

import { createHash } from 'node:crypto'
import { writeSync } from 'node:fs'
import { errorTable, isStoreError } from '../../src/model/errors.ts'
import type { DiskEngine } from '../../src/services/storage/types.ts'
import { codeOf, content, get, put, seeded } from './disk-world.ts'
import { openRealDisk } from './real-engine.ts'

export interface ChildTask {
  readonly directory: string
  readonly seed: number
  /** Puts and deletes to do, over all lanes. */
  readonly steps: number
  readonly lanes: number
  /** Ids to play with, from this on; each lane has its own. */
  readonly ids: number
  readonly largestBytes: number
  readonly extentBytes: number
  readonly reserveBytes?: number
  /** Waits, before it stops, until what is deleted was given back. */
  readonly settle?: boolean
  /** Reads all of it over and over while it works. */
  readonly scrub?: boolean
  /** Goes on when it is told that there is no space. */
  readonly fill?: boolean
}

const untypedExit = 70

function say(line: string): void {
  writeSync(1, `${line}\n`)
}

export function checksum(bytes: Uint8Array): string {
  return createHash('md5').update(bytes).digest('hex')
}

/** Mostly small, some large, few as large as may be. */
function lengthOf(random: () => number, largest: number): number {
  const kind = random()
  const most = kind < 0.5 ? 16_384 : kind < 0.9 ? largest / 8 : largest
  return 1 + Math.floor(random() * Math.min(most, largest))
}

async function tell(disk: DiskEngine): Promise<void> {
  const { ids } = await disk.list(0, Number.MAX_SAFE_INTEGER, 1_000_000)
  for (const id of ids) {
    try {
      say(`H ${id} ${checksum(await get(disk, id))}`)
    } catch (error) {
      if (!isStoreError(error)) throw error
      say(`H ${id} ${error.code}`)
    }
  }
  say('told')
}

class Lane {
  readonly #disk: DiskEngine
  readonly #task: ChildTask
  readonly #lane: number
  readonly #random: () => number

  constructor(disk: DiskEngine, task: ChildTask, lane: number) {
    this.#disk = disk
    this.#task = task
    this.#lane = lane
    this.#random = seeded(task.seed * 1000 + lane)
  }

  /** False when the disk takes no more. */
  async step(): Promise<boolean> {
    const { lanes, ids, largestBytes } = this.#task
    const random = this.#random
    const id = 1 + this.#lane + lanes * Math.floor((random() * ids) / lanes)
    const dice = random()
    if (dice < 0.25) return await this.#delete(id)
    if (dice < 0.4) {
      const code = await codeOf(get(this.#disk, id))
      if (code !== 'none' && code !== 'NOT_FOUND') say(`E read ${code}`)
      return true
    }
    const seed = Math.floor(random() * 2 ** 31)
    const length = lengthOf(random, largestBytes)
    say(`B ${id} ${seed} ${length}`)
    const code = await codeOf(put(this.#disk, id, content(seed, length), { replace: true }))
    say(code === 'none' ? `A ${id}` : `E put ${code}`)
    return code === 'none' || (code === 'NO_SPACE' && this.#task.fill === true)
  }

  async #delete(id: number): Promise<boolean> {
    say(`D ${id}`)
    const code = await codeOf(this.#disk.delete([id]))
    say(code === 'none' ? `d ${id}` : `E delete ${code}`)
    return code === 'none'
  }
}

async function load(disk: DiskEngine, task: ChildTask): Promise<void> {
  let left = task.steps
  const run = async (lane: Lane): Promise<void> => {
    while (left-- > 0) if (!(await lane.step())) return
  }
  await Promise.all(Array.from({ length: task.lanes }, (_, i) => run(new Lane(disk, task, i))))
  say('loaded')
}

/** Waits until hardly anything that was deleted takes space any more. */
async function settle(disk: DiskEngine): Promise<void> {
  for (;;) {
    const { liveBytes, reclaimableBytes } = disk.status()
    if (reclaimableBytes <= liveBytes * 0.05) break
    await new Promise<void>((resolve) => setTimeout(resolve, 20))
  }
  say(`settled ${disk.status().liveBytes}`)
}

async function main(task: ChildTask): Promise<void> {
  const { directory, extentBytes, reserveBytes = 0 } = task
  const disk = await openRealDisk(directory, {
    extentBytes,
    reserveBytes,
    nodeId: 'n1',
    compaction: { liveRatio: 0.9, bytesPerSecond: 256 << 20, idleMs: 50 },
    ...(task.scrub === true ? { scrub: { on: true, periodMs: 1, rateMin: 64 << 20, rateMax: 256 << 20 } } : {}),
  })
  disk.onCorrupt((id, finding) => say(`C ${id} ${finding}`))
  say('open')
  await tell(disk)
  await load(disk, task)
  if (task.settle === true) await settle(disk)
  await disk.close()
  say('end')
}

function ended(error: unknown): void {
  if (isStoreError(error)) {
    say(`failed ${error.code} ${error.message}`)
    process.exitCode = errorTable[error.code].exit
    return
  }
  process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
  process.exitCode = untypedExit
}

const given = process.argv[2]
if (given?.startsWith('{') === true) await main(JSON.parse(given) as ChildTask).catch(ended)
