/**
 * Crashes everywhere: a procedure is carried out once on a journal disk, then for every moment of it and every legal state
 * that a loss of power leaves (all of them when they are few, else the extremes and a seeded sample) the disk is opened and
 * held to the books. Then the power goes again in the middle of that recovery, and once more after a few writes behind it.
 */

import { type Choice, type CrashPoint, DiskJournal, Image, kept, lost, torn } from './disk-journal.ts'
import { type Books, Life } from './disk-life.ts'
import { seeded } from './disk-world.ts'
import type { DiskOptions } from '../../src/services/storage/engine/types.ts'

export interface Procedure {
  readonly name: string
  readonly options?: Partial<DiskOptions>
  /** Brings the disk, which is open, into the state that the procedure begins with; nothing crashes here. */
  prepare?(life: Life): Promise<void>
  /** What the power fails in. Without `prepare` there is nothing yet, not even an open disk. */
  run(life: Life): Promise<void>
  /** Further questions to a disk after the crash: open at `life`. */
  after?(life: Life): Promise<void>
}

export interface Depth {
  readonly seed: number
  /** Moments of a procedure that are looked at; all where they are not more. */
  readonly pointsMax: number
  /** All subsets are tried where not more than so many effects are open. */
  readonly exhaustiveMax: number
  /** Where they are more: each single one lost, kept, or the last that is kept; and each sector torn. */
  readonly each: boolean
  /** Random subsets tried there. */
  readonly samples: number
  /** Every so manieth state is also crashed in its recovery; 1 for all. */
  readonly againEvery: number
  /** Which part of its moments. */
  readonly againPart: number
  /** At every so manieth moment the process is killed first, and the power lost in the start after it. */
  readonly killEvery: number
}

export interface Tally {
  points: number
  states: number
  recoveries: number
}

/** A device that answers after a turn or a few: what overlaps depends on the seed. */
function devicePace(random: () => number): () => Promise<void> {
  return async () => {
    for (let turns = 1 + Math.floor(random() * 3); turns > 0; turns--) {
      await new Promise<void>((resolve) => setImmediate(resolve))
    }
  }
}

/** A device that answers at once: recoveries are many. */
const prompt = (): Promise<void> => Promise.resolve()

/** What a crash may do to `open` effects: all combinations, or the extremes and some of them; then torn sectors. */
export function* choicesOf(open: CrashPoint['open'], depth: Depth, random: () => number): Generator<Choice[]> {
  const count = open.length
  if (count <= depth.exhaustiveMax) {
    for (let mask = 0; mask < 2 ** count; mask++) yield open.map((_, i) => ((mask >>> i) % 2 === 1 ? kept : lost))
  } else {
    yield open.map(() => lost)
    yield open.map(() => kept)
    for (let i = 0; depth.each && i < count; i++) {
      yield open.map((_, j) => (i === j ? lost : kept))
      yield open.map((_, j) => (i === j ? kept : lost))
      yield open.map((_, j) => (j < i ? kept : lost))
    }
    for (let i = 0; i < depth.samples; i++) yield open.map(() => (random() < 0.5 ? lost : kept))
  }
  const only = Math.floor(random() * count)
  for (let i = 0; i < count; i++) {
    if (open[i]?.tears !== true || (!depth.each && i !== only)) continue
    for (const others of [lost, kept]) {
      for (const parts of [0x0f, 0xf0, Math.floor(random() * 256)])
        yield open.map((_, j) => (i === j ? torn(parts) : others))
    }
  }
}

function describeCrash(point: CrashPoint, choices: readonly Choice[]): string {
  const words = (choice: Choice): string =>
    choice === lost ? 'lost' : choice === kept ? 'kept' : `torn ${(choice - 2).toString(2)}`
  return `power lost at ${point.time} [${point.open.map(({ text }, i) => `${text}: ${words(choices[i] ?? lost)}`).join(', ')}]`
}

async function explained<T>(where: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw new Error(`${where}: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
  }
}

class Driver {
  readonly #procedure: Procedure
  readonly #depth: Depth
  readonly #random: () => number
  readonly tally: Tally = { points: 0, states: 0, recoveries: 0 }

  constructor(procedure: Procedure, depth: Depth) {
    this.#procedure = procedure
    this.#depth = depth
    this.#random = seeded(depth.seed)
  }

  #life(journal: DiskJournal, books: Books): Life {
    const seed = Math.floor(this.#random() * 2 ** 31)
    return new Life(journal, books, seed, this.#procedure.options)
  }

  async run(): Promise<void> {
    const { name, prepare, run } = this.#procedure
    const life = this.#life(new DiskJournal(new Image(), devicePace(this.#random)), new Map())
    if (prepare !== undefined) {
      await life.open()
      await prepare(life)
      await life.settle()
    }
    const from = life.journal.now
    await run(life)
    await life.settle()
    const points = [...life.journal.points()].filter((point) => point.time >= from)
    const stride = Math.max(1, Math.ceil(points.length / this.#depth.pointsMax))
    for (const [i, point] of points.entries()) {
      if (i % stride !== 0 && i !== points.length - 1) continue
      this.tally.points++
      await this.#crashAt(point, life.booksAt(point.time), name)
    }
  }

  async #crashAt(point: CrashPoint, books: Books, where: string): Promise<void> {
    for (const choices of choicesOf(point.open, this.#depth, this.#random)) {
      this.tally.states++
      const text = `${where}, ${describeCrash(point, choices)}`
      const again = this.tally.states % this.#depth.againEvery === 0
      await explained(text, () => this.#recover(new DiskJournal(point.image(choices), prompt), books, again))
    }
    if (point.open.length === 0 || this.tally.points % this.#depth.killEvery !== 0) return
    this.tally.states += 2
    // The classic: a hole, and all that was written behind it.
    const hole = point.open.findIndex(({ tears }) => tears)
    const choices = point.open.map((_, i) => (i === hole ? lost : kept))
    const text = `${where}, ${describeCrash(point, choices)}`
    await explained(text, () => this.#recover(new DiskJournal(point.image(choices), prompt), books, true))
    const killed = `${where}, the process killed at ${point.time}`
    await explained(killed, () => this.#recover(point.survivor(prompt), books, true))
  }

  /** Opens the disk and checks it; then, if `again`, crashes in the middle of what that did, and after some work. */
  async #recover(journal: DiskJournal, books: Books, again: boolean): Promise<void> {
    const life = this.#life(journal, books)
    await life.open()
    const opened = life.journal.now
    await life.check()
    await this.#procedure.after?.(life)
    this.tally.recoveries++
    if (!again) {
      await life.close()
      life.checkFigures()
      return
    }
    await this.#goOn(life)
    const few = { ...this.#depth, exhaustiveMax: 3, samples: 2, each: false }
    for (const point of life.journal.points()) {
      if (this.#random() > this.#depth.againPart) continue
      const choices = [...choicesOf(point.open, few, this.#random)]
      const one = choices[Math.floor(this.#random() * choices.length)] as Choice[]
      for (const chosen of new Set([choices[0] as Choice[], one])) {
        const text = `and again ${point.time <= opened ? 'in the recovery' : 'after it'}, ${describeCrash(point, chosen)}`
        const next = new DiskJournal(point.image(chosen), prompt)
        await explained(text, () => this.#recover(next, life.booksAt(point.time), false))
      }
    }
  }

  /** A little work on the recovered disk: what is new must not hide what was there, nor bring back what was dropped. */
  async #goOn(life: Life): Promise<void> {
    await life.put(900_001, 700)
    await life.put(900_002, 18_000)
    await life.delete([900_001])
    await life.settle()
  }
}

/** Carries the procedure out and crashes everywhere in it. */
export async function crashEverywhere(procedure: Procedure, depth: Depth): Promise<Tally> {
  const driver = new Driver(procedure, depth)
  await driver.run()
  return driver.tally
}
