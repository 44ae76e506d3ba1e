/**
 * The long version of test/real/history: minutes of clients against clusters of three and five real meta nodes, with all
 * troubles in random order, with bytes on a storage node, and with clocks that jump where libfaketime is installed.
 *
 * HISTORY_SEED chooses the order and the clients' choices; a failure names its seed and the file with the history.
 */

import { Prng } from '../../src/base/prng.ts'
import { ownersAreKnown } from '../support/connection-owner.ts'
import { runHistory } from '../support/history-run.ts'
import { clockTroubles, faketimeLibrary, type Trouble, troubles } from '../support/nemesis.ts'

const seed = Number(process.env['HISTORY_SEED'] ?? 1)

/** All of `list`, `rounds` times, shuffled. */
function shuffled(list: readonly Trouble[], rounds: number, random: Prng): Trouble[] {
  const all = Array.from({ length: rounds }, () => list).flat()
  for (let i = all.length - 1; i > 0; i--) {
    const j = random.below(i + 1)
    ;[all[i], all[j]] = [all[j] as Trouble, all[i] as Trouble]
  }
  return all
}

if (faketimeLibrary === undefined) {
  process.stdout.write('libfaketime is not installed (Debian: apt install faketime): clocks do not jump in this run\n')
}

describe('long: histories are linearizable', function () {
  this.timeout(900_000)

  const sizes = ownersAreKnown ? [3, 5] : []
  for (const meta of sizes) {
    it(`of ${meta} meta nodes and a storage node under every trouble, twice each`, async () => {
      const order = shuffled(troubles, 2, new Prng(seed).fork(`order ${meta}`))
      await runHistory({ meta, seed, troubles: order, lastMs: [500, 3000], clients: 8, storage: 1 })
    })
  }

  if (faketimeLibrary === undefined) return

  for (const meta of sizes) {
    it(`of ${meta} meta nodes whose clocks jump`, async () => {
      const list = [...clockTroubles, ...troubles.slice(0, 3)]
      const order = shuffled(list, 2, new Prng(seed).fork(`clocks ${meta}`))
      await runHistory({ meta, seed, troubles: order, lastMs: [500, 2000], clients: 8, faketime: faketimeLibrary })
    })
  }
})
