/** The main job on real processes: files go in, the same bytes come out, and the commands say what they did. */

import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { expect } from 'chai'
import { TestCluster } from '../support/cluster.ts'
import { content, sha256, sha256File, treeSums } from '../support/content.ts'
import { peakResidentMiB, spawnCli } from '../support/processes.ts'

interface Stored {
  readonly size: number
  readonly etag: string
  readonly version: number
  readonly chunks: number
  readonly durable: number
}

describe('real processes: store', function () {
  this.timeout(120_000)
  let cluster: TestCluster
  let scratch: string

  before(async () => {
    scratch = await mkdtemp(join(tmpdir(), 'holdfast-scratch-'))
    cluster = await TestCluster.start()
    await cluster.ok(['mb', 'files'])
  })

  after(async () => {
    await cluster?.stop()
    await rm(scratch, { recursive: true, force: true })
  })

  it('puts and gets the node binary, byte for byte, on three disks', async () => {
    const back = join(scratch, 'node')
    const stored = await cluster.json<Stored>(['put', process.execPath, 'files/bin/node', '--write', 'all'])
    expect(stored.size).to.equal((await stat(process.execPath)).size)
    expect(stored.durable).to.equal(3)
    await cluster.ok(['get', 'files/bin/node', back])
    expect(await sha256File(back)).to.equal(await sha256File(process.execPath))
  })

  it('puts and gets a tree of small files with odd names', async () => {
    const tree = join(scratch, 'tree')
    const names = ['plain', 'with space', 'ünïcode/日本語', '.hidden', "quote'd", 'deep/er/and/deeper', 'percent%20']
    for (let i = 0; i < 150; i++) names.push(`many/${i % 10}/file-${i}`)
    for (const [i, name] of names.entries()) {
      const path = join(tree, name)
      await mkdir(dirname(path), { recursive: true })
      await writeFile(path, content(i + 1, (i * 977) % 40_000))
    }
    await cluster.ok(['put', '-r', tree, 'files/tree'])
    const back = join(scratch, 'tree-back')
    await cluster.ok(['get', '-r', 'files/tree', back])
    expect(await treeSums(back)).to.deep.equal(await treeSums(tree))
  })

  it('stores a zero-byte object and reads it back', async () => {
    const empty = join(scratch, 'empty')
    await writeFile(empty, '')
    const stored = await cluster.json<Stored>(['put', empty, 'files/empty'])
    expect(stored).to.include({ size: 0, chunks: 0 })
    const back = join(scratch, 'empty-back')
    await cluster.ok(['get', 'files/empty', back])
    expect((await stat(back)).size).to.equal(0)
  })

  it('reads ranges, inclusive, over chunk borders', async () => {
    const bytes = content(99, 9_000_001)
    const path = join(scratch, 'ranged')
    await writeFile(path, bytes)
    await cluster.ok(['put', path, 'files/ranged'])
    const last = bytes.length - 1
    for (const [from, to] of [
      [0, 0],
      [65_535, 65_536],
      [4_194_300, 4_194_310],
      [last, last],
      [1_000_000, 8_999_999],
    ] as const) {
      const back = join(scratch, `range-${from}`)
      await cluster.ok(['get', 'files/ranged', back, '--range', `${from}-${to}`])
      expect(sha256(await readFile(back)), `${from}-${to}`).to.equal(sha256(bytes.subarray(from, to + 1)))
    }
  })

  it('pipes from stdin and to stdout', async () => {
    await cluster.ok(['put', '-', 'files/piped'], 'hello\n')
    expect(await cluster.ok(['get', 'files/piped', '-'])).to.equal('hello\n')
  })

  it('lists, tells, copies and removes', async () => {
    await cluster.ok(['put', '-', 'files/a/one'], 'one')
    await cluster.ok(['cp', 'files/a/one', 'files/a/two'])
    expect(await cluster.ok(['get', 'files/a/two', '-'])).to.equal('one')
    expect(await cluster.ok(['ls', 'files/a/']))
      .to.contain('one')
      .and.to.contain('two')
    const told = await cluster.json<{ size: number; chunks: { replicas: { state: string }[] }[] }>([
      'stat',
      'files/a/one',
    ])
    expect(told.size).to.equal(3)
    expect(told.chunks[0]?.replicas.filter((replica) => replica.state === 'current')).to.have.length.of.at.least(2)
    await cluster.ok(['rm', 'files/a/one'])
    expect((await cluster.run(['get', 'files/a/one', '-'])).code).to.equal(3)
    expect(await cluster.ok(['get', 'files/a/two', '-'])).to.equal('one')
  })

  it('refuses to remove a bucket with objects and removes an empty one', async () => {
    await cluster.ok(['mb', 'short-lived'])
    await cluster.ok(['put', '-', 'short-lived/x'], 'x')
    expect((await cluster.run(['rb', 'short-lived'])).code).to.equal(4)
    await cluster.ok(['rm', 'short-lived/x'])
    await cluster.ok(['rb', 'short-lived'])
    expect(await cluster.ok(['ls'])).not.to.contain('short-lived')
  })

  it('keeps single chunks for those who bring their own manifests', async () => {
    const path = join(scratch, 'chunk')
    await writeFile(path, content(5, 300_000))
    const id = (await cluster.ok(['chunk', 'put', path])).trim()
    expect(id).to.match(/^[0-9a-f]{16}$/)
    const back = join(scratch, 'chunk-back')
    await cluster.ok(['chunk', 'get', id, back])
    expect(await sha256File(back)).to.equal(await sha256File(path))
    expect(await cluster.ok(['chunk', 'stat', id])).to.contain(id)
    await cluster.ok(['chunk', 'rm', id])
    expect((await cluster.run(['chunk', 'stat', id])).code).to.be.oneOf([0, 3])
  })

  it('says that the cluster is healthy and names its nodes', async () => {
    const status = await cluster.untilFull()
    expect(status.meta.map((meta) => meta.id).sort()).to.deep.equal(['m1', 'm2', 'm3'])
    expect(status.nodes.map((node) => node.health)).to.deep.equal(['up', 'up', 'up', 'up'])
    expect(await cluster.ok(['node', 'ls'])).to.contain('s4')
  })

  it('answers on the health ports of every node', async () => {
    for (const node of cluster.nodes) {
      const [host, port] = node.address.split(':')
      const base = `http://${host}:${Number(port) + 1000}`
      expect((await fetch(`${base}/livez`)).status, node.id).to.equal(200)
      expect((await fetch(`${base}/readyz`)).status, node.id).to.equal(200)
      const metrics = await (await fetch(`${base}/metrics`)).text()
      expect(metrics, node.id).to.contain('process_resident_memory_bytes ')
      const own = node.id.startsWith('m')
        ? ['raft_term ', 'raft_is_leader ', 'raft_commit_index ', 'raft_applied_index ']
        : ['disk_capacity_bytes{disk=', 'disk_used_bytes{disk=', 'disk_chunks{disk=', 'corrupt_replicas_total 0']
      for (const name of own) expect(metrics, node.id).to.contain(`\nholdfast_${name}`)
    }
  })

  it('moves 400 MB through bounded memory on every side', async () => {
    const size = 400 << 20
    const big = join(scratch, 'big')
    await writeFile(big, content(77, size))
    const putting = spawnCli(['put', big, 'files/big', '--meta', cluster.meta.join(',')])
    let clientMiB = 0
    const watch = setInterval(() => {
      clientMiB = Math.max(clientMiB, peakResidentMiB(putting.pid) ?? 0)
    }, 20)
    const ended = await putting.ended
    clearInterval(watch)
    expect(ended.code, ended.stderr).to.equal(0)
    const back = join(scratch, 'big-back')
    await cluster.ok(['get', 'files/big', back])
    expect(await sha256File(back)).to.equal(await sha256File(big))
    expect(clientMiB, 'client').to.be.within(1, 300)
    for (const node of cluster.nodes) {
      expect(peakResidentMiB(cluster.pid(node.id)), node.id).to.be.within(1, node.kind === 'meta' ? 300 : 400)
    }
    await rm(big)
    await rm(back)
  })
})
