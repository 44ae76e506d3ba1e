/**
 * Which disks are slow against their peers: median and median absolute deviation (MAD), window by window.
 *
 * A disk is over in a window when a figure of it is beyond the median of the others by `madFactor` MADs and by
 * `medianFactor`, and beyond `floorMs`: MADs alone call a disk slow that is 2 ms behind peers which are all alike, a factor
 * alone calls one slow that is 3 ms against 1. It is slow after `windowsSlow` of the last `windowsKept` windows, and
 * quick again after `windowsKept` in a row in which it was not even half way there. At most a quarter of the disks are
 * slow at once, and a window in which more are over counts for none: then it is the load and not the disk.
 *
 * Needs `peersMin` disks with figures; with fewer nothing is slow. Slow is not dead: it is a reason to put nothing new on
 * a disk and to read elsewhere, never one to copy what it holds. Pure.
 */

import type { DiskNumber } from '../../model/ids.ts'

/** Disks, the compared one too, below which a median says nothing. */
export const peersMin = 4
/** Makes a MAD comparable to a standard deviation. */
const madScale = 1.4826
const madFactor = 6
const medianFactor = 3
/** No figure below it is slow: a hard disk under load has syncs of this length. */
export const floorMs = 100
export const windowsKept = 6
export const windowsSlow = 4

/** Milliseconds; 0: nothing was measured. */
export interface SpeedFigures {
  readonly syncMs: number
  readonly readMs: number
}

interface Distance {
  /** Of the way to the limit: above 1 it is over. */
  readonly share: number
  readonly words: string
}

interface Watched {
  /** How the last windows went, oldest first. */
  readonly windows: ('over' | 'between' | 'normal')[]
  slow: string | undefined
}

function median(sorted: readonly number[]): number {
  const middle = sorted.length >> 1
  const high = sorted[middle] ?? 0
  return sorted.length % 2 === 1 ? high : ((sorted[middle - 1] ?? 0) + high) / 2
}

/** What a figure must not exceed, from those of the other disks. */
export function slowLimit(others: readonly number[]): { readonly median: number; readonly limit: number } {
  const middle = median([...others].sort((a, b) => a - b))
  const deviations = others.map((value) => Math.abs(value - middle)).sort((a, b) => a - b)
  const spread = madScale * median(deviations)
  return { median: middle, limit: Math.max(floorMs, middle * medianFactor, middle + madFactor * spread) }
}

export class SlowWatch {
  readonly #disks = new Map<DiskNumber, Watched>()

  /** Takes the figures of one window; gives the slow disks with the reason in words. Disks without figures are forgotten. */
  window(figures: ReadonlyMap<DiskNumber, SpeedFigures>): Map<DiskNumber, string> {
    for (const disk of this.#disks.keys()) if (!figures.has(disk)) this.#disks.delete(disk)
    const worst = new Map([...figures.keys()].map((disk) => [disk, worstOf(disk, figures)]))
    const atMost = Math.max(1, Math.floor(figures.size / 4))
    const over = [...worst.values()].filter(({ share }) => share > 1).length
    for (const [disk, { share, words }] of worst) {
      const watched = this.#disks.get(disk) ?? { windows: [], slow: undefined }
      this.#disks.set(disk, watched)
      watched.windows.push(share > 1 && over <= atMost ? 'over' : share > 0.5 ? 'between' : 'normal')
      if (watched.windows.length > windowsKept) watched.windows.shift()
      if (turnsSlow(watched) && this.#slow().size < atMost) watched.slow = words
      else if (watched.windows.length === windowsKept && watched.windows.every((one) => one === 'normal')) {
        watched.slow = undefined
      }
    }
    return this.#slow()
  }

  #slow(): Map<DiskNumber, string> {
    return new Map([...this.#disks].flatMap(([disk, { slow }]) => (slow === undefined ? [] : [[disk, slow] as const])))
  }
}

function turnsSlow({ slow, windows }: Watched): boolean {
  return (
    slow === undefined && windows.at(-1) === 'over' && windows.filter((one) => one === 'over').length >= windowsSlow
  )
}

function worstOf(disk: DiskNumber, figures: ReadonlyMap<DiskNumber, SpeedFigures>): Distance {
  const syncs = compare('syncs', disk, figures, (one) => one.syncMs)
  const reads = compare('reads', disk, figures, (one) => one.readMs)
  return syncs.share >= reads.share ? syncs : reads
}

function compare(
  what: string,
  disk: DiskNumber,
  figures: ReadonlyMap<DiskNumber, SpeedFigures>,
  of: (one: SpeedFigures) => number,
): Distance {
  const own = figures.get(disk)
  const others = [...figures].flatMap(([other, one]) => (other !== disk && of(one) > 0 ? [of(one)] : []))
  if (own === undefined || of(own) <= 0 || others.length < peersMin - 1) return { share: 0, words: '' }
  const { median: middle, limit } = slowLimit(others)
  return {
    share: of(own) / limit,
    words: `slow against its peers: nine in ten ${what} take up to ${Math.round(of(own))} ms, theirs ${Math.round(middle)} ms`,
  }
}
