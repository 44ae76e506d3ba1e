/** Reconciling the disks of one node: each in its turn. */

import { expect } from 'chai'
import { StoreError } from '../../../../src/model/errors.ts'
import { Reconcile } from '../../../../src/services/meta/control/reconcile.ts'
import type { Session } from '../../../../src/services/meta/control/sessions.ts'
import { Term } from '../../../../src/services/meta/control/term.ts'
import { ManualClock } from '../../../support/manual-clock.ts'

function nothing(): void {
  return undefined
}

describe('controllers: disks of one node', () => {
  it('compares the next disk while one cannot be compared', async () => {
    const clock = new ManualClock()
    const log = { debug: nothing, info: nothing, warn: nothing, error: nothing, with: () => log }
    const reconciled: number[] = []
    const queries = { disk: async () => ({ live: true, reconciled: false, generation: 1 }) }
    const replicator = {
      propose: async () => ({ ok: true, kind: 'done' }),
      status: () => ({ leaderAddresses: [] }),
      clusterIncarnation: () => 1,
    }
    const machine = { queries, cluster: () => ({ version: 1, incarnation: 1, deletesHeld: false }) }
    const term = new Term(1, { log, clock } as never, { machine, replicator } as never, {} as never)
    const parts = { topology: { disks: new Map() } }
    const reconcile = new Reconcile(term, parts as never)
    const report = async (disk: number): Promise<void> => {
      if (disk === 1) throw new StoreError('INTERNAL', 'the index cannot be read')
      reconciled.push(disk)
    }
    const disks = [1, 2].map((number) => ({ id: `disk ${number}`, number, generation: 1 }))
    reconcile.attached({ node: 's1', incarnation: '', disks, orders: { report } } as unknown as Session)
    for (let i = 0; i < 20; i++) await new Promise<void>((resolve) => setImmediate(resolve))
    expect(reconciled).to.deep.equal([2])
    term.end()
  })
})
