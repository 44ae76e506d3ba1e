/**
 * Clients write and read the same few keys while meta nodes die, are paused, or are cut off from each other: what they saw
 * must be what one copy of the metadata could have answered (linearizable), nothing acknowledged is lost, and all nodes
 * end with the same state. Real processes, real disks, TCP through proxies; the long version is in test/long.
 */

import { ownersAreKnown } from '../support/connection-owner.ts'
import { runHistory } from '../support/history-run.ts'
import { shortTroubles } from '../support/nemesis.ts'

if (!ownersAreKnown) {
  process.stdout.write(
    'connections cannot be told apart here (no /proc): partitions of real processes are not tested\n',
  )
}

describe('real processes: histories are linearizable', function () {
  this.timeout(120_000)

  for (const meta of ownersAreKnown ? [3, 5] : []) {
    it(`of ${meta} meta nodes under kill -9, SIGSTOP and partitions`, async () => {
      await runHistory({ meta, seed: meta, troubles: shortTroubles, lastMs: [600, 1200], clients: 6 })
    })
  }
})
