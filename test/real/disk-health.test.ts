/**
 * A storage node with two disks of which one goes away: at run time, at its next start, and replaced by a new one. The other
 * disk serves all the while, what the lost one held is copied elsewhere, and `status` says what is wrong until it is not.
 */

import { mkdir, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'chai'
import { connect } from '../../src/main/index.ts'
import type { ClusterStatus, StatusDisk, Store } from '../../src/sdk/types.ts'
import { TestCluster } from '../support/cluster.ts'
import { content } from '../support/disk-world.ts'
import { cliPath, freePort, until } from '../support/processes.ts'
import { mayTrace, stallCalls } from '../support/strace.ts'

const objectBytes = 300_000
const limits = ['--disk-suspect-after', '1s', '--disk-fail-after', '4s']

describe('real processes: one disk of two', function () {
  this.timeout(120_000)
  let cluster: TestCluster
  let store: Store
  let puts = 0
  let first = ''
  let second = ''

  before(async () => {
    cluster = await TestCluster.start({ meta: 1, storage: 3, zones: 3 })
    first = join(cluster.directory, 'two', 'a')
    second = join(cluster.directory, 'two', 'b')
    const listen = `127.0.0.1:${await freePort()}`
    const place = ['--id', 'two', '--listen', listen, '--disk', `${first},${second}`, '--zone', 'z1']
    cluster.nodes.push({
      id: 'two',
      kind: 'storage',
      address: listen,
      listen,
      directory: join(cluster.directory, 'two'),
      args: ['storage', ...place, '--meta', cluster.meta.join(','), '--disk-probe', '300ms', ...limits],
      build: cliPath,
      env: {},
      running: undefined,
    })
    cluster.startNode('two')
    await cluster.untilUp()
    store = await connect({ meta: [...cluster.meta] })
    await store.buckets.create('disks')
  })

  after(async () => {
    await store?.close()
    await cluster?.stop()
  })

  async function put(count: number): Promise<void> {
    for (let i = 0; i < count; i++) await store.put('disks', `k${++puts}`, content(puts, objectBytes))
  }

  async function allThere(): Promise<void> {
    for (let i = 1; i <= puts; i++) {
      const bytes = await (await store.get('disks', `k${i}`)).bytes()
      expect(Buffer.from(bytes).equals(Buffer.from(content(i, objectBytes))), `k${i}`).to.equal(true)
    }
  }

  function disksOf(status: ClusterStatus): readonly StatusDisk[] {
    return status.nodes.find((node) => node.id === 'two')?.disks ?? []
  }

  function failure(status: ClusterStatus): string {
    return status.codes.find(({ code }) => code === 'DISK_FAILED')?.summary ?? ''
  }

  async function restart(): Promise<void> {
    expect((await cluster.kill('two', 'SIGTERM')).code).to.equal(0)
    cluster.startNode('two')
    await cluster.untilReady('two')
  }

  it('is failed when its directory is gone, and repaired at once while the other one serves', async () => {
    await until('both disks hold chunks', async () => {
      await put(4)
      return disksOf(await cluster.status()).every((disk) => disk.chunks > 0)
    })
    await rename(second, `${second}.unplugged`)
    const status = await until('the disk is failed', async () => {
      const now = await cluster.status()
      return failure(now) === '' ? undefined : now
    })
    expect(failure(status)).to.match(
      /^failed: disk \d+ of two: looking for its identity file: it is gone; replace the disk/,
    )
    expect(
      disksOf(status)
        .map((disk) => disk.state)
        .sort(),
    ).to.deep.equal(['failed', 'ok'])
    expect(status.nodes.find((node) => node.id === 'two')?.health).to.equal('up')
    await cluster.untilFull()
    await put(6)
    await allThere()
    const shown = await cluster.ok(['node', 'ls'])
    expect(shown).to.match(/two .* up .* disk \d+ failed/)
  })

  it('is reported by its id when it does not open at the next start', async () => {
    await rename(`${second}.unplugged`, second)
    await rename(join(second, 'index'), join(second, 'index.away'))
    await writeFile(join(second, 'index'), 'not a directory')
    await restart()
    const status = await cluster.status()
    expect(
      disksOf(status)
        .map((disk) => disk.state)
        .sort(),
    ).to.deep.equal(['failed', 'ok'])
    expect(failure(status)).to.match(/^failed: disk \d+ of two: .*index.*; replace the disk/)
    await put(4)
    await allThere()
  })

  it('is reported by its directory when not even its identity can be read', async () => {
    const file = await open(join(second, 'identity'), 'r+')
    await file.write(Buffer.alloc(16, 0x5a), 0, 16, 8)
    await file.close()
    await restart()
    const status = await until('it is reported', async () => {
      const now = await cluster.status()
      return failure(now).includes('does not open') ? now : undefined
    })
    expect(failure(status)).to.include(`${second} of two does not open: `)
    await put(4)
  })

  it('is healthy again with a new disk in its place', async () => {
    await rm(second, { recursive: true })
    await mkdir(second)
    await restart()
    const status = await until('healthy', async () => {
      const now = await cluster.status()
      return now.verdict === 'healthy' && disksOf(now).length === 3 ? now : undefined
    })
    expect(status.codes).to.deep.equal([])
    expect(disksOf(status).filter((disk) => disk.state === 'ok')).to.have.length(2)
    expect(disksOf(status).find((disk) => disk.state !== 'ok')?.reason).to.equal('its node runs without it')
    await put(4)
    await allThere()
  })

  if (mayTrace()) {
    it('is failed when its syncs do not return, with four I/O threads in all, and the other one serves all the while', async () => {
      const extents = (await readdir(first)).filter((name) => name.startsWith('extent-'))
      let stopping: Promise<unknown> | undefined
      const stalled = await stallCalls(
        cluster.pid('two'),
        'fdatasync',
        extents.map((name) => join(first, name)),
      )
      try {
        const status = await until('the disk is failed', async () => {
          await put(2)
          await allThere()
          const now = await cluster.status()
          return failure(now) === '' ? undefined : now
        })
        expect(failure(status)).to.match(/^failed: disk \d+ of two: syncing: no answer within \d/)
        expect(disksOf(status).filter((disk) => disk.state === 'ok')).to.have.length(1)
        await cluster.untilFull()
        const before = disksOf(await cluster.status()).find((disk) => disk.state === 'ok')?.chunks ?? 0
        await put(12)
        await until('the other disk takes chunks', async () => {
          const other = disksOf(await cluster.status()).find((disk) => disk.state === 'ok')
          return (other?.chunks ?? 0) > before
        })
        await allThere()
        const pid = cluster.pid('two')
        stopping = cluster.kill('two', 'SIGTERM')
        // Who traces it has to let go of it before it is quite gone.
        await until(
          'it has ended',
          async () => /^State:\tZ/m.test(await readFile(`/proc/${pid}/status`, 'utf8')),
          12_000,
        )
      } finally {
        await stalled.end()
        await stopping
      }
      cluster.startNode('two')
      await cluster.untilReady('two')
      await until('healthy', async () => (await cluster.status()).verdict === 'healthy')
      await allThere()
    })
  } else {
    console.log('  strace is not installed or may not trace: syncs that hang are tried on the simulated disk only')
  }

  it('does not start without any disk that opens, and says why in one line', async () => {
    await cluster.kill('two', 'SIGTERM')
    for (const directory of [first, second]) {
      const file = await open(join(directory, 'identity'), 'r+')
      await file.write(Buffer.alloc(16, 0x5a), 0, 16, 8)
      await file.close()
    }
    cluster.startNode('two')
    const ended = await cluster.ended('two')
    expect(ended.code).to.equal(6)
    expect(ended.stderr.trim().split('\n').at(-1)).to.match(/identity file is damaged/)
    await cluster.untilFull()
    await allThere()
  })
})
