/**
 * Lives of one disk, each in a process of its own (engine-child.ts) that is killed, failed by the system, or ends: and the
 * books of what those lives have said. What each life finds at its start is held against the books.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { isErrorCode } from '../../src/model/errors.ts'
import { content } from './disk-world.ts'
import { checksum, type ChildTask } from './engine-child.ts'

const childPath = resolve(import.meta.dirname, 'engine-child.js')
const absent = 'absent'

/** How one life ended. */
export interface LifeEnd {
  readonly code: number | undefined
  readonly signal: string | undefined
  readonly lines: readonly string[]
  readonly stderr: string
  /** Codes of errors that calls were answered with, and of the open. */
  readonly refused: readonly string[]
}

export interface LifeOptions {
  /** SIGKILL when so many puts and deletes were acknowledged. */
  readonly killAfter?: number
  /** A command to run the process under, before its own. */
  readonly under?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
}

export class EngineRuns {
  readonly directory: string
  readonly task: Omit<ChildTask, 'seed' | 'steps'>
  /** Checksums (or how to make them) that a chunk may have now, by id; `absent` is one of them. */
  readonly #allowed = new Map<number, Set<string>>()
  readonly #lastPut = new Map<number, string>()
  readonly #children = new Set<ChildProcess>()
  acknowledged = 0

  constructor(directory: string, task: Omit<ChildTask, 'seed' | 'steps' | 'directory'>) {
    this.directory = directory
    this.task = { ...task, directory }
  }

  static async inTemporary(task: Omit<ChildTask, 'seed' | 'steps' | 'directory'>): Promise<EngineRuns> {
    return new EngineRuns(await mkdtemp(join(tmpdir(), 'holdfast-lives-')), task)
  }

  async remove(): Promise<void> {
    for (const child of this.#children) child.kill('SIGKILL')
    await rm(this.directory, { recursive: true, force: true })
  }

  /** One life. Throws when what it found at its start is not what lives before it have promised, or it ended in a mess. */
  async live(
    task: Pick<ChildTask, 'seed' | 'steps'> & Partial<ChildTask>,
    options: LifeOptions = {},
  ): Promise<LifeEnd> {
    const argument = JSON.stringify({ ...this.task, ...task })
    const [program, ...before] = [...(options.under ?? []), process.execPath]
    const child = spawn(program as string, [...before, childPath, argument], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...options.env },
    })
    this.#children.add(child)
    const stderr: string[] = []
    child.stderr.on('data', (piece: Buffer) => stderr.push(piece.toString()))
    const lines: string[] = []
    const held = new Map<number, string>()
    let acks = 0
    let broken: Error | undefined
    createInterface({ input: child.stdout }).on('line', (line) => {
      lines.push(line)
      try {
        if (this.#absorb(line, held)) acks++
      } catch (error) {
        broken ??= error as Error
      }
      if (acks === options.killAfter) child.kill('SIGKILL')
    })
    const ended = await new Promise<{ code: number | null; signal: string | null }>((done, reject) => {
      child.once('error', reject)
      child.once('close', (code, signal) => done({ code, signal }))
    })
    this.#children.delete(child)
    if (broken !== undefined) throw broken
    const end = { code: ended.code ?? undefined, signal: ended.signal ?? undefined, lines, stderr: stderr.join('') }
    const refused = lines.flatMap((line) => /^(?:E \w+|failed) (\w+)/.exec(line)?.[1] ?? [])
    this.#orderly(end.stderr, refused, lines)
    return { ...end, refused }
  }

  /** Nothing but typed errors, and no corruption: nothing here damages bytes. */
  #orderly(stderr: string, refused: readonly string[], lines: readonly string[]): void {
    if (/\n\s+at /.test(stderr)) throw new Error(`the process ended with a stack trace: ${stderr}`)
    const untyped = refused.find((code) => !isErrorCode(code))
    if (untyped !== undefined) throw new Error(`a call was refused with ${untyped}, which is no error code`)
    const corrupt = lines.find((line) => line.startsWith('C ') || line.endsWith(' CORRUPT'))
    if (corrupt !== undefined) throw new Error(`something is called corrupt that nothing has damaged: ${corrupt}`)
  }

  /** Takes a line in; true when it is an acknowledgement. */
  #absorb(line: string, held: Map<number, string>): boolean {
    const [kind, idText, ...rest] = line.split(' ')
    const id = Number(idText)
    const allowed = this.#allowed.get(id) ?? new Set([absent])
    switch (kind) {
      case 'B':
        this.#lastPut.set(id, rest.join(':'))
        this.#allowed.set(id, allowed.add(rest.join(':')))
        return false
      case 'D':
        this.#allowed.set(id, allowed.add(absent))
        return false
      case 'A':
      case 'd':
        this.#allowed.set(id, new Set([kind === 'A' ? (this.#lastPut.get(id) as string) : absent]))
        this.acknowledged++
        return true
      case 'H':
        held.set(id, rest[0] as string)
        return false
      case 'told':
        this.#hold(held)
        return false
      default:
        return false
    }
  }

  /** What a life says that it holds, against the books; from then on it is what everybody goes by. */
  #hold(held: ReadonlyMap<number, string>): void {
    for (const id of held.keys()) if (!this.#allowed.has(id)) throw new Error(`chunk ${id} was never put`)
    for (const [id, allowed] of this.#allowed) {
      const sum = held.get(id)
      const found = [...allowed].find((name) => (name === absent ? sum === undefined : sum === sumOf(name)))
      if (found === undefined) {
        const must = [...allowed].map((name) => (name === absent ? name : `${name} (${sumOf(name)})`)).join(' or ')
        throw new Error(`chunk ${id} is ${sum ?? absent}, it must be ${must}`)
      }
      this.#allowed.set(id, new Set([found]))
    }
  }

  /** Bytes that the extent files take on the filesystem. */
  async extentBytes(): Promise<number> {
    let bytes = 0
    for (const name of await readdir(this.directory)) {
      if (name.startsWith('extent-')) bytes += (await stat(join(this.directory, name))).blocks * 512
    }
    return bytes
  }
}

const sums = new Map<string, string>()
function sumOf(name: string): string {
  const [seed, length] = name.split(':').map(Number) as [number, number]
  const sum = sums.get(name) ?? checksum(content(seed, length))
  if (sums.size > 10_000) sums.clear()
  sums.set(name, sum)
  return sum
}
