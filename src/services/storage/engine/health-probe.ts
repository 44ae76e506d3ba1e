/**
 * The probe of a disk: every so often it writes a few bytes by the direct path, syncs them, reads them back and compares.
 *
 * It finds a disk that is broken while nobody uses it, gives a figure of its speed that compares with its peers', and
 * notices when the directory is no longer the disk's (unmounted, unplugged, replaced) although open files still work. What
 * fails or hangs in it is judged like any other I/O; here is only what no single I/O shows: bytes that came back wrong, and
 * an identity that is gone. A full filesystem is no finding.
 */

import { equalBytes } from '../../../base/bytes.ts'
import { sectorBytes } from '../../../core/chunk/position.ts'
import type { Sum } from '../../../core/chunk/sums.ts'
import { isStoreError } from '../../../model/errors.ts'
import type { Timer } from '../../../ports/clock.ts'
import type { ExtentFile } from '../../../ports/extents.ts'
import { readIdentity } from './identity-file.ts'
import type { DiskDeps, DiskGate } from './types.ts'
import type { Work } from './work.ts'

export interface ProbeParts {
  readonly deps: DiskDeps
  readonly gate: DiskGate
  readonly work: Work
  readonly sum: Sum
  readonly path: string
  readonly diskId: string
  readonly everyMs: number
}

export class Probe {
  readonly #parts: ProbeParts
  readonly #written: Uint8Array
  readonly #read: Uint8Array
  #timer: Timer | undefined
  #stopped = false

  constructor(parts: ProbeParts) {
    this.#parts = parts
    this.#written = parts.deps.extents.arena(sectorBytes)
    this.#read = parts.deps.extents.arena(sectorBytes)
    this.#arm()
  }

  #arm(): void {
    if (this.#stopped || this.#parts.gate.refusal !== undefined) return
    this.#timer = this.#parts.deps.clock.after(this.#parts.everyMs, () => {
      this.#timer = undefined
      this.run()
        .catch((error: unknown) => this.#couldNot(error))
        .finally(() => this.#arm())
    })
  }

  stop(): void {
    this.#stopped = true
    this.#timer?.cancel()
  }

  /** What failed was an I/O, and judged as one. */
  #couldNot(error: unknown): void {
    const { deps, gate, path } = this.#parts
    if (gate.closing || (isStoreError(error) && error.code === 'NO_SPACE')) return
    deps.log.warn('the probe of a disk did not work', { disk: path, reason: String(error) })
  }

  /** One probe; `close` waits for it. */
  async run(): Promise<void> {
    const { gate, work } = this.#parts
    if (gate.refusal !== undefined || gate.closing) return
    await work.run(async () => {
      await this.#checkIdentity()
      const file = await this.#parts.deps.extents.openProbe?.()
      if (file === undefined) return
      try {
        await this.#writeAndRead(file)
      } finally {
        await file.close()
      }
    })
    gate.look()
  }

  async #checkIdentity(): Promise<void> {
    const { deps, gate, path, sum, diskId } = this.#parts
    let found: string | undefined
    try {
      found = (await readIdentity(deps.files, path, sum))?.diskId
    } catch (error) {
      // Damaged, or not to be read just now: the disk is still there.
      if (isStoreError(error) && error.code === 'CORRUPT') return
      throw error
    }
    if (found === diskId) return
    throw gate.fail('looking for its identity file', `it is ${found === undefined ? 'gone' : "another disk's"}`)
  }

  async #writeAndRead(file: ExtentFile): Promise<void> {
    const { deps, gate } = this.#parts
    const words = deps.entropy.bytes(16)
    for (let at = 0; at < sectorBytes; at += words.length) this.#written.set(words, at)
    await file.write(this.#written, 0)
    await file.sync()
    this.#read.fill(0)
    const count = await (file.readDirect?.(this.#read, 0) ?? file.read(this.#read, 0))
    if (count === sectorBytes && equalBytes(this.#read, this.#written)) return
    throw gate.fail('probing', 'what was written and synced a moment ago reads back as something else')
  }
}
