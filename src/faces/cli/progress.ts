/**
 * One progress line on a terminal, for anything that takes more than a second. Nothing is drawn when stderr is piped.
 */

import { showBytes, showSeconds } from './format.ts'

const quietMs = 1000
const redrawMs = 100
const barWidth = 24
const columnsDefault = 80

/** The part of a terminal that is drawn on. */
export interface Terminal {
  readonly isTTY?: boolean
  readonly columns?: number
  write(text: string): unknown
}

export class Progress {
  readonly #terminal: Terminal
  readonly #label: string
  readonly #startMs: number
  readonly #now: () => number
  #totalBytes: number | undefined
  #bytes = 0
  #note = ''
  #drawnMs = 0
  #drawn = false

  constructor(terminal: Terminal, label: string, totalBytes: number | undefined, now: () => number = Date.now) {
    this.#terminal = terminal
    this.#label = label
    this.#totalBytes = totalBytes
    this.#now = now
    this.#startMs = now()
  }

  /** More is to do than was known. */
  grow(bytes: number): void {
    this.#totalBytes = (this.#totalBytes ?? 0) + bytes
  }

  /** `bytes` more are done. */
  add(bytes: number, note = this.#note): void {
    this.#bytes += bytes
    this.#note = note
    this.#draw()
  }

  #draw(): void {
    if (this.#terminal.isTTY !== true) return
    const nowMs = this.#now()
    if (nowMs - this.#startMs < quietMs || nowMs - this.#drawnMs < redrawMs) return
    this.#drawnMs = nowMs
    this.#drawn = true
    // A pty that was never told its size reports 0.
    const columns = this.#terminal.columns || columnsDefault
    this.#terminal.write(`\r\x1b[2K${this.line(nowMs).slice(0, columns - 1)}`)
  }

  /** The line as of now. */
  line(nowMs: number): string {
    const seconds = Math.max(0.001, (nowMs - this.#startMs) / 1000)
    const rate = this.#bytes / seconds
    const done = showBytes(this.#bytes)
    const note = this.#note === '' ? '' : `  ${this.#note}`
    if (this.#totalBytes === undefined || this.#totalBytes === 0)
      return `${this.#label}  ${done}  ${showBytes(rate)}/s${note}`
    const share = Math.min(1, this.#bytes / this.#totalBytes)
    const filled = Math.round(share * barWidth)
    const bar = `${'#'.repeat(filled)}${'-'.repeat(barWidth - filled)}`
    const left = rate > 0 ? showSeconds((this.#totalBytes - this.#bytes) / rate) : '?'
    return `${this.#label}  [${bar}] ${Math.floor(share * 100)}%  ${done} of ${showBytes(this.#totalBytes)}  ${showBytes(rate)}/s  ${left} left${note}`
  }

  /** Removes the line. */
  end(): void {
    if (this.#drawn) this.#terminal.write('\r\x1b[2K')
    this.#drawn = false
  }
}
