/** Physical deletes: an order is given only for what the state says is to go at that moment. */

import { expect } from 'chai'
import type { ReplicaRecord } from '../../../../src/core/meta/records.ts'
import { Deletes } from '../../../../src/services/meta/control/deletes.ts'
import type { Sessions } from '../../../../src/services/meta/control/sessions.ts'
import { Term } from '../../../../src/services/meta/control/term.ts'

const disk = 7
const generation = 3

type State = ReplicaRecord['state']

/** Deletes of one disk over a state that tests write, with the ids of every order that was given. */
class Desk {
  readonly states = new Map<number, State>()
  readonly orphans = new Set<number>()
  readonly given: number[] = []
  attached = true
  held = false
  pendingAtLook = true
  readonly deletes: Deletes

  constructor() {
    const log = { debug: nothing, info: nothing, warn: nothing, error: nothing, with: () => log }
    const env = { log, clock: { wallMs: () => 0 }, metrics: { count: nothing } }
    const queries = {
      chunks: async (ids: readonly number[]) => {
        this.pendingAtLook &&= ids.every((id) => this.deletes.pending(disk, id))
        return ids.map((id) => {
          const state = this.states.get(id)
          return state === undefined ? undefined : { replicas: [{ disk, generation, state }] }
        })
      },
    }
    const replicator = { propose: async () => ({ ok: true, kind: 'done' }), clusterIncarnation: () => 1 }
    const machine = { queries, cluster: () => ({ version: 2, incarnation: 1, deletesHeld: this.held }) }
    const term = new Term(1, env as never, { machine, replicator } as never, {} as never)
    const give = async (order: { delete: { ids: readonly number[] } }): Promise<unknown> => {
      this.given.push(...order.delete.ids)
      return { generation, ids: [], bytes: 0 }
    }
    const session = { disks: [{ number: disk, generation }], orders: { give } }
    const sessions = { ofDisk: () => (this.attached ? session : undefined) } as unknown as Sessions
    this.deletes = new Deletes(term, {
      sessions,
      orphans: async (_disk, chunks) => {
        this.pendingAtLook &&= chunks.every((id) => this.deletes.pending(disk, id))
        return chunks.filter((id) => this.orphans.has(id))
      },
    })
  }
}

function nothing(): void {
  return undefined
}

async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise<void>((resolve) => setImmediate(resolve))
}

describe('controllers: deletes', () => {
  it('orders away what is in deleting, and not what was copied to the disk again', async () => {
    const desk = new Desk()
    desk.attached = false
    for (const [id, state] of [
      [1, 'deleting'],
      [2, 'deleting'],
      [3, 'deleting'],
    ] as const) {
      desk.states.set(id, state)
      desk.deletes.add(disk, id)
    }
    await settle()
    desk.states.set(2, 'current')
    desk.states.delete(3)
    desk.attached = true
    desk.deletes.attached(disk)
    await settle()
    expect(desk.given).to.deep.equal([1])
    expect(desk.pendingAtLook).to.equal(true)
    for (const id of [1, 2, 3]) expect(desk.deletes.pending(disk, id)).to.equal(false)
  })

  it('looks at orphans once more, while no copy of them may start', async () => {
    const desk = new Desk()
    desk.orphans.add(11)
    desk.deletes.addOrphans(disk, [11, 12])
    await settle()
    expect(desk.given).to.deep.equal([11])
    expect(desk.pendingAtLook).to.equal(true)
    expect(desk.deletes.pending(disk, 12)).to.equal(false)
  })
})
