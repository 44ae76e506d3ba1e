/** What `holdfast up` will start, the first time and again, and how it follows the members of its cluster. */

import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { isStoreError } from '../../src/model/errors.ts'
import { type ClusterFile, type ClusterMeta, readClusterFile, writeClusterFile } from '../../src/main/cluster-file.ts'
import { findPorts } from '../../src/main/ports.ts'
import { followMembers, planUp, portOf } from '../../src/main/up-plan.ts'

describe('plan of up', () => {
  let dir: string
  let held: Server | undefined
  let ports: number[]

  before(async () => {
    ports = await findPorts('127.0.0.1', 21_000, 12)
  })

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'holdfast-up-plan-'))
  })

  afterEach(() => {
    held?.close()
    held = undefined
    rmSync(dir, { recursive: true, force: true })
  })

  function plan(flags: Record<string, string | boolean> = {}): ReturnType<typeof planUp> {
    return planUp({ dir, port: String(ports[0]), ...flags })
  }

  async function refusal(flags: Record<string, string | boolean>): Promise<string> {
    const error: unknown = await plan(flags).catch((reason: unknown) => reason)
    if (!isStoreError(error)) throw new Error('was not refused')
    return `${error.code} ${error.message}`
  }

  function meta(id: string, at: number, more: Partial<ClusterMeta> = {}): ClusterMeta {
    return { id, address: `127.0.0.1:${ports[at]}`, pid: 0, ...more }
  }

  /** Saves a cluster of these meta nodes and one storage node. */
  function save(...nodes: ClusterMeta[]): void {
    const storage = [{ id: 's1', address: `127.0.0.1:${ports[9]}`, pid: 0, zone: 'z1', disks: [join(dir, 's1')] }]
    writeClusterFile(dir, { clusterId: 'c1', meta: nodes, storage })
  }

  it('starts 3 meta nodes, or 5, or 2 and a witness', async () => {
    expect((await plan()).meta.map(({ id, witness }) => [id, witness])).to.deep.equal([
      ['m1', undefined],
      ['m2', undefined],
      ['m3', undefined],
    ])
    expect((await plan({ meta: '5' })).meta).to.have.lengthOf(5)
    for (const flags of [{ witness: true }, { witness: true, meta: '2' }]) {
      expect((await plan(flags)).meta.map(({ id, witness }) => [id, witness])).to.deep.equal([
        ['m1', undefined],
        ['m2', undefined],
        ['w1', true],
      ])
    }
    expect(await refusal({ meta: '2' })).to.match(/^USAGE --meta 2: an even number/)
    expect(await refusal({ meta: '4' })).to.match(/^USAGE/)
    expect(await refusal({ meta: '3', witness: true })).to.match(/^USAGE .*exactly 2/)
  })

  it('finds the same nodes again, the witness too', async () => {
    save(meta('m1', 1), meta('m2', 2), meta('w1', 3, { witness: true }))
    for (const flags of [{}, { witness: true }, { meta: '2' }]) {
      const again = await plan(flags)
      expect(again.meta).to.deep.equal(readClusterFile(dir)?.meta)
      expect(again.clusterId).to.equal('c1')
    }
    expect(await refusal({ meta: '3' })).to.match(/^USAGE .*2 meta and a witness/)
  })

  it('starts a cluster whose members were changed as it is, even with an even number', async () => {
    save(meta('m1', 1), meta('m2', 2), meta('m3', 3), meta('m5', 4))
    expect((await plan()).meta.map(({ id }) => id)).to.deep.equal(['m1', 'm2', 'm3', 'm5'])
    expect(await refusal({ meta: '3' })).to.match(/^USAGE/)
  })

  it('grows by nodes under names without a past', async () => {
    save(meta('m1', 1), meta('m2', 2), meta('m4', 3))
    mkdirSync(join(dir, 'm3'))
    const grown = await plan({ meta: '5' })
    expect(grown.meta.map(({ id }) => id)).to.deep.equal(['m1', 'm2', 'm4', 'm5', 'm6'])
    expect(new Set(grown.meta.map(({ address }) => address)).size).to.equal(5)
    expect(await refusal({ meta: '4' })).to.match(/^USAGE/)
  })

  it('does not start a node that was added by hand unless its data is here', async () => {
    save(meta('m1', 1), meta('m4', 2, { external: true }))
    const first = await plan()
    expect(first.meta[1]).to.deep.include({ id: 'm4', external: true })
    expect(first.notes.join()).to.include('m4 at 127.0.0.1').and.include('start it yourself')
    mkdirSync(join(dir, 'm4'))
    const second = await plan()
    expect(second.meta[1]).not.to.have.property('external')
    held = createServer().listen(portOf(second.meta[1]?.address ?? ''), '127.0.0.1')
    await new Promise((resolve) => held?.once('listening', resolve))
    expect((await plan()).notes.join()).to.include('it runs')
  })

  it('refuses when the port of its own meta node is taken', async () => {
    save(meta('m1', 1))
    held = createServer().listen(ports[1], '127.0.0.1')
    await new Promise((resolve) => held?.once('listening', resolve))
    expect(await refusal({})).to.match(/^PORT_IN_USE/)
  })

  it('follows the members: drops those that were removed, notes those that were added', () => {
    const known: ClusterFile['meta'] = [meta('m1', 1), meta('m2', 2)]
    const member = (id: string, role: 'leader' | 'follower' | 'witness') => ({ id, role, address: `${id}:1` })
    const same = [member('m1', 'leader'), member('m2', 'follower')]
    expect(followMembers(known, same)).to.equal(known)
    expect(followMembers(known, [member('m2', 'leader'), member('w9', 'witness')])).to.deep.equal([
      meta('m2', 2),
      { id: 'w9', address: 'w9:1', pid: 0, witness: true, external: true },
    ])
  })
})
