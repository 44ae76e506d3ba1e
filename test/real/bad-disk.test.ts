/**
 * What disks do to a meta node: rot in the log, a lost tail, a state that is behind or ahead of it, no space. Each time the
 * node says in one line why it does not go on, the others serve, and nothing acknowledged is lost.
 */

import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'chai'
import { connect } from '../../src/main/index.ts'
import { isStoreError } from '../../src/model/errors.ts'
import type { Store } from '../../src/sdk/types.ts'
import { TestCluster } from '../support/cluster.ts'
import {
  cutTail,
  fillUntil,
  flipByte,
  replaceBy,
  rotLog,
  type SmallFilesystem,
  smallFilesystem,
} from '../support/damage.ts'
import { until } from '../support/processes.ts'

const MiB = 1024 * 1024
/** What a node says whose log has lost something; which of them depends on what was lost. */
const lost =
  /(entries \d+ to \d+ were (acknowledged|committed) and are gone|the state is at entry \d+ and the log ends at \d+|(raft log|raft-log).*(damaged|corrupt)).*(empty directory|replace it)/i

describe('real processes: damage to the files of a meta node', function () {
  this.timeout(90_000)
  let cluster: TestCluster
  let store: Store
  let puts = 0

  before(async () => {
    cluster = await TestCluster.start({ storage: 0 })
    store = await connect({ meta: cluster.meta })
    await store.buckets.create('damage')
  })

  after(async () => {
    await store?.close()
    await cluster?.stop()
  })

  /** Acknowledged objects without bytes: each an entry of the log that carries `text`. */
  async function put(count: number, text: string): Promise<void> {
    for (let i = 0; i < count; i++) await store.put('damage', `k${++puts}`, '', { contentType: `${text}/${puts}` })
  }

  /** A follower, stopped in order. */
  async function stopFollower(): Promise<string> {
    await cluster.untilAgreed()
    const leader = await cluster.leader()
    const id = ['m1', 'm2', 'm3'].find((candidate) => candidate !== leader) as string
    await cluster.kill(id, 'SIGTERM')
    return id
  }

  /** The node ends by itself with one line that says why; the others serve. */
  async function expectRefused(id: string, code: number, why: RegExp): Promise<void> {
    cluster.startNode(id)
    const ended = await cluster.ended(id)
    expect(ended.code, ended.stderr).to.equal(code)
    expect(ended.stderr).to.match(why)
    expect(ended.stderr).not.to.match(/\n\s+at /)
    await put(1, 'while-down')
  }

  /** The node runs again on what `heal` leaves, and holds what the others hold. */
  async function expectBack(id: string): Promise<void> {
    cluster.startNode(id)
    await cluster.untilReady(id)
    await cluster.untilAgreed()
  }

  /** Damages the log of a stopped node, sees it refused, and puts back what it was: a disk that came to its senses. */
  async function refusedWith(id: string, damage: (log: string) => Promise<void>): Promise<void> {
    const log = join(cluster.node(id).directory, 'raft-segments')
    const copy = join(cluster.directory, 'log-copy')
    await replaceBy(log, copy)
    await damage(log)
    await expectRefused(id, 6, lost)
    await replaceBy(copy, log)
    await expectBack(id)
  }

  it('refuses a log with a damaged entry in its middle (scenarios 73, 77)', async () => {
    await put(20, 'before-the-rot')
    await put(1, 'marked-for-rot')
    await put(20, 'after-the-rot')
    await refusedWith(await stopFollower(), async (log) => {
      expect(await flipByte(log, Buffer.from('marked-for-rot'))).to.equal(true)
    })
  })

  it('refuses a log that lost its tail (scenario 76)', async () => {
    await put(30, 'tail')
    await refusedWith(await stopFollower(), async (log) => await cutTail(log, 0.4))
  })

  it('refuses rot where an entry of the log begins', async () => {
    await put(30, 'begin')
    await refusedWith(await stopFollower(), rotLog)
  })

  it('brings a state that is behind its log up to it', async () => {
    const id = await stopFollower()
    const { directory } = cluster.node(id)
    const old = join(cluster.directory, 'old-state')
    await replaceBy(join(directory, 'state'), old)
    await expectBack(id)
    await put(40, 'newer')
    await cluster.untilAgreed()
    await cluster.kill(id, 'SIGTERM')
    await replaceBy(old, join(directory, 'state'))
    await expectBack(id)
  })

  it('refuses a state that is ahead of its log', async () => {
    const id = await stopFollower()
    const { directory } = cluster.node(id)
    const [log, old, copy] = [
      join(directory, 'raft-segments'),
      join(cluster.directory, 'old-log'),
      join(cluster.directory, 'new-log'),
    ]
    await replaceBy(log, old)
    await expectBack(id)
    await put(40, 'ahead')
    await cluster.untilAgreed()
    await cluster.kill(id, 'SIGTERM')
    await replaceBy(log, copy)
    await replaceBy(old, log)
    await expectRefused(id, 6, /the state is at entry \d+ and the log ends at \d+.*empty directory/)
    await replaceBy(copy, log)
    await expectBack(id)
  })

  it('has everything at the end', async () => {
    const listed = new Set<string>()
    for await (const entry of store.list('damage')) listed.add(entry.key)
    expect(listed.size).to.equal(puts)
  })
})

const tried = await smallFilesystem(1)
await tried?.remove()
if (tried === undefined) {
  process.stdout.write('no filesystem can be mounted here (not root): full disks of meta nodes are not tested\n')
}

if (tried !== undefined) {
  describe('real processes: a full disk under a meta node', function () {
    this.timeout(90_000)
    let small: SmallFilesystem

    before(async () => {
      small = (await smallFilesystem(96)) as SmallFilesystem
    })

    after(async () => {
      await small?.remove()
    })

    it('refuses growth below the reserve, takes deletes, and goes on by itself when there is room', async () => {
      const directories = { m1: join(small.directory, 'one') }
      const metaFlags = ['--reserve', '64MiB']
      const cluster = await TestCluster.start({ meta: 1, storage: 0, directories, metaFlags })
      const store = await connect({ meta: cluster.meta, retryMs: 1000 })
      try {
        await store.buckets.create('full')
        await store.put('full', 'first', '')
        const ballast = await fillUntil(small.directory, 32 * MiB)
        const refused = await until('growth is refused', async () => {
          const put = store.put('full', `more-${Math.random()}`, '')
          return await put.then(
            () => undefined,
            (error: unknown) => error,
          )
        })
        expect(isStoreError(refused) && refused.code, String(refused)).to.equal('NO_SPACE')
        await store.delete('full', 'first')
        await rm(ballast)
        await until('growth is taken again', async () => {
          await store.put('full', 'second', '')
          return true
        })
      } finally {
        await store.close()
        await cluster.stop()
        await small.clear()
      }
    })

    it('a node that cannot write stops with one line, the others serve, and it catches up when there is room (scenario 80)', async () => {
      const directories = { m3: join(small.directory, 'three') }
      const metaFlags = ['--reserve', '0']
      const cluster = await TestCluster.start({ storage: 0, directories, metaFlags })
      const store = await connect({ meta: cluster.meta })
      try {
        await store.buckets.create('full')
        const ballast = await fillUntil(small.directory, 0)
        let put = 0
        await until('m3 stops', async () => {
          for (let i = 0; i < 50; i++) await store.put('full', `k${++put}`, '', { metadata: { m: 'x'.repeat(4000) } })
          return cluster.node('m3').running?.child.exitCode !== null
        })
        const ended = await cluster.ended('m3')
        expect(ended.code, ended.stderr).to.be.oneOf([1, 6])
        expect(ended.stderr).to.match(/no space|disk is full|ENOSPC/i)
        expect(ended.stderr).not.to.match(/\n\s+at /)
        await store.put('full', 'without-m3', '')
        await rm(ballast)
        cluster.startNode('m3')
        await cluster.untilReady('m3')
        await cluster.untilAgreed()
      } finally {
        await store.close()
        await cluster.stop()
        await small.clear()
      }
    })
  })
}
