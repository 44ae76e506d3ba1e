/**
 * A stopped cluster's state filled with chunk records, as if they had been committed: the commands run through the state
 * machine of one node, its store is copied to the others, and each node's log is cut to begin where the state ends.
 *
 * Through the front door the same ten million records would take hours of Raft entries that nobody wants to measure.
 */

import { cpSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { randomBytes } from 'node:crypto'
import type { Command } from '../../src/core/meta/commands.ts'
import { encodeCommand } from '../../src/core/meta/commands.ts'
import { createFiles } from '../../src/drivers/files-node.ts'
import { createLevelFactory } from '../../src/drivers/kv-level.ts'
import { leaseSpan } from '../../src/model/ids.ts'
import { LogStore } from '../../src/services/meta/log-store.ts'
import { createMachine, type MetaMachine } from '../../src/services/meta/machine.ts'
import { logName } from '../../src/services/meta/raft-boot.ts'

const chunksEach = 512
const chunkBytes = 4 * 1024 * 1024
const disks = 3
const stateName = 'state'

const id = (): string => randomBytes(16).toString('hex')

/** Applies commands one after another, with the indexes that follow what is applied. */
class Seeder {
  readonly #machine: MetaMachine
  readonly #term: number

  constructor(machine: MetaMachine, term: number) {
    this.#machine = machine
    this.#term = term
  }

  async run(command: Command) {
    const entry = { index: this.#machine.appliedIndex() + 1, term: this.#term, payload: encodeCommand(command) }
    const reply = (await this.#machine.apply([entry]))[0]?.reply
    if (reply?.ok !== true) throw new Error(`seed ${command.kind}: ${reply?.message}`)
    return reply
  }
}

async function seed(machine: MetaMachine, count: number, term: number): Promise<void> {
  const seeder = new Seeder(machine, term)
  const nowMs = Date.now()
  for (let i = 1; i <= disks; i++) {
    const disk = { id: id(), state: 'ok' as const, capacityBytes: 1e15, usedBytes: 0 }
    const node = { node: `s${i}`, addresses: [`127.0.0.1:${1000 + i}`], zone: `z${i}`, incarnation: id() }
    await seeder.run({ kind: 'registerNode', nowMs, ...node, disks: [disk] })
  }
  const acks = Array.from({ length: disks }, (_, i) => ({ disk: i + 1, generation: 1 }))
  for (let done = 0; done < count; ) {
    const lease = await seeder.run({ kind: 'grantLease', nowMs, ttlMs: 3_600_000 })
    if (lease.kind !== 'lease') throw new Error('a lease was not granted')
    const end = Math.min(leaseSpan, count - done)
    for (let at = 0; at < end; at += chunksEach) {
      const chunks = Array.from({ length: Math.min(chunksEach, end - at) }, (_, i) => ({
        id: lease.id + at + i,
        length: chunkBytes,
        root: new Uint8Array(8).fill(i),
        acks,
        copying: [],
      }))
      const body = { commitId: id(), lease: lease.id, chunks, copies: disks, concern: 'all' as const }
      await seeder.run({ kind: 'commitChunks', nowMs, ...body })
    }
    done += end
  }
}

/** Makes the log of the node in `directory` begin after `index`. */
async function cutLog(directory: string, index: number): Promise<void> {
  const kv = await createLevelFactory(directory).open(logName)
  const { store, recovered } = await LogStore.open(kv, 0)
  const config = recovered.configs.at(-1) ?? recovered.base.config
  const term = recovered.termRuns.at(-1)?.term ?? recovered.base.term
  await store.finishInstall({ index, term, config }, false)
  await store.close()
}

/** Fills the stopped nodes in `directories` with `count` chunks of three copies each. */
export async function fillWithChunks(directories: readonly string[], count: number): Promise<void> {
  const first = directories[0] as string
  const stores = { files: createFiles(first), kv: createLevelFactory(first) }
  const machine = createMachine(stores)
  await machine.open()
  const index = await seedAndClose(machine, count)
  for (const directory of directories.slice(1)) {
    rmSync(join(directory, stateName), { recursive: true })
    cpSync(join(first, stateName), join(directory, stateName), { recursive: true })
  }
  for (const directory of directories) await cutLog(directory, index)
}

async function seedAndClose(machine: MetaMachine, count: number): Promise<number> {
  try {
    await seed(machine, count, machine.applied().term)
    return machine.appliedIndex()
  } finally {
    await machine.close()
  }
}
