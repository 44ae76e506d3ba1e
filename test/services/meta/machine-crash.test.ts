/**
 * Crashes of the state machine while its state is written behind the replies: what is on disk is always the state of one
 * index, whatever batches a crash takes with it, and the log brings it back to where it was.
 */

import { expect } from 'chai'
import { Prng } from '../../../src/base/prng.ts'
import { type Command, encodeCommand } from '../../../src/core/meta/commands.ts'
import { createMachine, type MetaMachine } from '../../../src/services/meta/machine.ts'
import type { AppliedEntry } from '../../../src/services/meta/types.ts'
import { FaultPlan } from '../../support/fault-plan.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { id, memoryStores } from './kit.ts'

const entriesCount = 120

/** Buckets made and removed: every entry changes counters, and many change the same keys. */
function logOf(random: Prng): AppliedEntry[] {
  const commands: Command[] = [{ kind: 'found', nowMs: 1, clusterId: id(1), version: 1 }]
  for (let i = 0; commands.length < entriesCount; i++) {
    const name = `bucket-${random.below(12)}`
    const nowMs = 10 + i
    commands.push(
      random.chance(0.6)
        ? { kind: 'createBucket', nowMs, name, commitId: id(i + 2) }
        : { kind: 'deleteBucket', nowMs, name },
    )
  }
  return commands.map((command, i) => ({ index: i + 1, term: 1, payload: encodeCommand(command) }))
}

async function names(machine: MetaMachine): Promise<string[]> {
  return (await machine.queries.buckets('', 100)).map((bucket) => bucket.name)
}

/** Digest and buckets after each entry, from a machine that never crashes. */
async function reference(log: readonly AppliedEntry[]): Promise<{ digest: number; names: string[] }[]> {
  const machine = createMachine(memoryStores())
  await machine.open()
  const states = [{ digest: machine.digest(), names: await names(machine) }]
  for (const entry of log) {
    await machine.apply([entry])
    states.push({ digest: machine.digest(), names: await names(machine) })
  }
  return states
}

describe('meta machine: crashes while the state is written', () => {
  it('keep index and effects together, and lose nothing that is in the log (scenario 81)', async () => {
    for (let seed = 1; seed <= 20; seed++) {
      const random = new Prng(seed)
      const log = logOf(random)
      const states = await reference(log)
      const stores = memoryStores()
      let crashes = 0
      let durable = 0
      for (let done = false; !done; ) {
        const clock = new ManualClock()
        const machine = createMachine(stores, clock)
        await machine.open()
        const index = machine.appliedIndex()
        expect(index, `seed ${seed}`).to.be.at.least(durable)
        expect({ digest: machine.digest(), names: await names(machine) }, `seed ${seed}, entry ${index}`).to.deep.equal(
          states[index],
        )
        const until = crashes < 6 ? index + random.below(40) : log.length
        for (let at = index; at < Math.min(until, log.length); ) {
          const group = log.slice(at, Math.min(log.length, at + 1 + random.below(5)))
          await machine.apply(group)
          at += group.length
          if (random.chance(0.3)) clock.advance(60)
          if (random.chance(0.3)) await new Promise((resolve) => setImmediate(resolve))
        }
        durable = machine.durableIndex()
        done = machine.appliedIndex() === log.length
        if (done) await machine.close()
        // The old world's writes that are still on their way never arrive.
        stores.kv.faults.stopped = true
        stores.kv.crash(() => random.unit(), new FaultPlan())
        crashes++
      }
      const last = createMachine(stores)
      await last.open()
      expect({ digest: last.digest(), names: await names(last) }, `seed ${seed}`).to.deep.equal(states[log.length])
      await last.close()
    }
  })
})
