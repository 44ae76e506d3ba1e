/** Bad input and bad luck, each with one clear line and the right exit code; a stack trace in the output is a failure. */

import { access, appendFile, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { connect as connectTcp } from 'node:net'
import { randomBytes } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { connect } from '../../src/main/index.ts'
import { isStoreError } from '../../src/model/errors.ts'
import type { Store } from '../../src/sdk/types.ts'
import { TestCluster } from '../support/cluster.ts'
import { content, sha256 } from '../support/content.ts'
import { type Ended, freePort, runCli, shell, spawnCli, until } from '../support/processes.ts'

function expectError(ended: Ended, code: number, words: RegExp, what: string): void {
  expect(ended.code, `${what}: ${ended.stderr}`).to.equal(code)
  expect(ended.stderr, what).to.match(words)
  expect(ended.stderr, what).not.to.match(/\n\s+at /)
}

/** Sends `bytes` to the address and waits until the peer closes or has been silent for a while. */
async function sendGarbage(address: string, bytes: Uint8Array): Promise<void> {
  const [host, port] = address.split(':')
  await new Promise<void>((done) => {
    const socket = connectTcp({ host: host as string, port: Number(port) }, () => socket.write(bytes))
    socket.setTimeout(300, () => socket.destroy())
    socket.on('data', () => {})
    socket.on('error', () => {})
    socket.on('close', () => done())
  })
}

describe('real processes: bad input and bad luck', function () {
  this.timeout(120_000)
  let cluster: TestCluster
  let store: Store
  let scratch: string

  before(async () => {
    scratch = await mkdtemp(join(tmpdir(), 'holdfast-scratch-'))
    cluster = await TestCluster.start()
    store = await connect({ meta: [...cluster.meta] })
    await store.buckets.create('bucket')
    await store.put('bucket', 'there', 'there')
  })

  after(async () => {
    await store?.close()
    await cluster?.stop()
    await rm(scratch, { recursive: true, force: true })
  })

  it('answers wrong usage with exit code 2 and a suggestion', async () => {
    expectError(await cluster.run(['ls', '--frobnicate']), 2, /frobnicate/, 'unknown flag')
    expectError(await runCli(['gett', 'bucket/there']), 2, /get/, 'unknown command')
    expectError(await cluster.run(['get']), 2, /missing|argument/i, 'no arguments')
    expectError(await cluster.run(['get', 'bucket/there', '-', '--range', 'x-y']), 2, /range/i, 'bad range')
  })

  it('answers what is not there with exit code 3, and names what is close', async () => {
    expectError(await cluster.run(['get', 'buckett/there', '-']), 3, /bucket/, 'unknown bucket')
    expectError(await cluster.run(['get', 'bucket/nope', '-']), 3, /nope/, 'unknown object')
    expectError(await cluster.run(['chunk', 'get', '00000000000f4240', '-']), 3, /chunk/, 'unknown chunk')
  })

  it('refuses names that would not survive, before any byte moves', async () => {
    const long = 'x'.repeat(1025)
    for (const key of [
      'bucket/',
      `bucket/${long}`,
      'bucket/a//b',
      'bucket/../b',
      'bucket/a/./b',
      'BAD_BUCKET/x',
      '/x',
    ]) {
      expectError(await cluster.run(['put', '-', key], 'x'), 2, /name|key|bucket/i, JSON.stringify(key.slice(0, 30)))
    }
    const refused = await store.put('bucket', 'nul\0', 'x').catch((error: unknown) => error)
    expect(isStoreError(refused) && refused.code).to.equal('INVALID_ARGUMENT')
  })

  it('takes any Unicode of up to 1,024 bytes', async () => {
    for (const key of ['日本語', '🙂', 'e\u0301 is not \u00e9', ' leading and trailing ', '-dash', 'x'.repeat(1024)]) {
      await store.put('bucket', key, key)
      expect(await (await store.get('bucket', key)).text()).to.equal(key)
    }
  })

  it('says with exit code 5 that nobody answers', async () => {
    const port = await freePort()
    const ended = await runCli(['ls', '--meta', `127.0.0.1:${port}`, '--timeout', '3s'])
    expectError(ended, 5, /127\.0\.0\.1/, 'no meta reachable')
  })

  it('refuses a port in use and a directory in use', async () => {
    const [taken] = cluster.nodes
    const args = ['meta', '--id', 'm9', '--listen', taken?.address ?? '', '--data', join(scratch, 'm9')]
    expectError(await runCli([...args, '--peers', `m9=${taken?.address}`]), 1, /in use|taken/i, 'port in use')
    const port = await freePort()
    const s1 = cluster.node('s1')
    const again = ['storage', '--id', 's1', '--listen', `127.0.0.1:${port}`, '--disk', s1.directory, '--zone', 'z1']
    const locked = await runCli([...again, '--meta', cluster.meta.join(',')])
    expectError(locked, 1, /lock|another process/i, 'disk in use')
  })

  it('leaves no half file when a get fails, and refuses a source that is not there', async () => {
    const target = join(scratch, 'half')
    expect((await cluster.run(['get', 'bucket/nope', target])).code).to.equal(3)
    expect(
      await access(target).then(
        () => true,
        () => false,
      ),
    ).to.equal(false)
    const gone = await cluster.run(['put', join(scratch, 'gone'), 'bucket/gone'])
    expectError(gone, 1, /gone/, 'source vanished')
  })

  it('gives a put up when its source shrinks, and nothing becomes visible', async () => {
    const path = join(scratch, 'shrinking')
    await writeFile(path, content(3, 60_000_000))
    const putting = spawnCli(['put', path, 'bucket/shrinking', '--meta', cluster.meta.join(',')])
    await truncate(path, 1_000_000)
    const ended = await putting.ended
    if (ended.code === 0) {
      // It had not looked at the file yet: then it stored the short file whole.
      expect((await store.stat('bucket', 'shrinking')).size).to.equal(1_000_000)
    } else {
      expectError(ended, 1, /changed|shrank|size|bytes/i, 'shrinking source')
      expect((await cluster.run(['stat', 'bucket/shrinking'])).code).to.equal(3)
    }
  })

  it('refuses a source that grows while it is read', async () => {
    const path = join(scratch, 'growing')
    await writeFile(path, content(5, 60_000_000))
    const putting = spawnCli(['put', path, 'bucket/growing', '--meta', cluster.meta.join(',')])
    let over = false
    const ending = putting.ended.finally(() => {
      over = true
    })
    while (!over) await appendFile(path, 'more')
    expectError(await ending, 1, /grew while it was read/, 'growing source')
    expect((await cluster.run(['stat', 'bucket/growing'])).code).to.equal(3)
  })

  it('refuses a stdin that is closed or a directory, and takes an empty one', async () => {
    const put = (redirect: string): Promise<Ended> =>
      shell(`exec "$0" "$1" put - bucket/from-stdin --meta "$2" ${redirect}`, cluster.meta.join(','))
    expectError(await put('<&-'), 1, /stdin.*closed/, 'closed stdin')
    expectError(await put('< /'), 1, /stdin.*directory/, 'directory as stdin')
    expect((await cluster.run(['stat', 'bucket/from-stdin'])).code).to.equal(3)
    expect((await put('< /dev/null')).code).to.equal(0)
  })

  it('tells of a stdout that is full, and nothing of one whose reader left', async () => {
    await store.put('bucket', 'large', content(6, 2_000_000))
    const get = (redirect: string): Promise<Ended> =>
      shell(`"$0" "$1" get bucket/large - --meta "$2" ${redirect}`, cluster.meta.join(','))
    expectError(await get('> /dev/full'), 6, /^holdfast: write to stdout: the disk is full.*\n$/, 'full stdout')
    expect((await get('| head -c 10 > /dev/null')).stderr).to.equal('')
  })

  it('shows nothing of a put that was stopped with Ctrl-C', async () => {
    const path = join(scratch, 'interrupted')
    await writeFile(path, content(4, 200_000_000))
    const putting = spawnCli(['put', path, 'bucket/interrupted', '--meta', cluster.meta.join(',')])
    const chunksBefore = (await store.admin.status()).nodes.reduce((sum, node) => sum + (node.disks[0]?.chunks ?? 0), 0)
    await until('some chunks arrived', async () => {
      const { nodes } = await store.admin.status()
      return (
        putting.child.exitCode !== null ||
        nodes.reduce((sum, node) => sum + (node.disks[0]?.chunks ?? 0), 0) > chunksBefore
      )
    })
    putting.child.kill('SIGINT')
    const ended = await putting.ended
    expect(ended.code, ended.stderr).not.to.equal(0)
    expect(ended.stderr).not.to.match(/\n\s+at /)
    expect((await cluster.run(['stat', 'bucket/interrupted'])).code).to.equal(3)
  })

  it('keeps answering after garbage on every port', async () => {
    const http2 = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
    const kinds = [
      randomBytes(4096),
      Buffer.from('GET / HTTP/1.1\r\n\r\n'),
      Buffer.concat([http2, randomBytes(2000)]),
      Buffer.alloc(9, 255),
    ]
    for (const node of cluster.nodes) {
      const [host, port] = node.address.split(':')
      const both = [node.address, `${host}:${Number(port) + 1000}`]
      await Promise.all(both.flatMap((address) => kinds.map(async (bytes) => await sendGarbage(address, bytes))))
    }
    for (const node of cluster.nodes) expect(node.running?.child.exitCode, node.id).to.equal(null)
    await cluster.untilUp()
    expect(await (await store.get('bucket', 'there')).text()).to.equal('there')
  })

  it('lets exactly one of many if-absent puts win', async () => {
    const results = await Promise.allSettled(
      Array.from(
        { length: 8 },
        async (_, i) => await store.put('bucket', 'absent-race', `writer ${i}`, { ifAbsent: true }),
      ),
    )
    const won = results.flatMap((result, i) => (result.status === 'fulfilled' ? [i] : []))
    expect(won).to.have.length(1)
    for (const result of results) {
      if (result.status === 'rejected')
        expect(isStoreError(result.reason) && result.reason.code).to.equal('CONDITION_FAILED')
    }
    expect(await (await store.get('bucket', 'absent-race')).text()).to.equal(`writer ${won[0]}`)
    expectError(await cluster.run(['put', '-', 'bucket/absent-race', '--if-absent'], 'x'), 4, /exist/i, 'if-absent')
  })

  it('loses no increment of many if-match writers', async () => {
    await store.put('bucket', 'counter', '0')
    const writer = async (): Promise<void> => {
      for (let done = 0; done < 5; ) {
        const object = await store.get('bucket', 'counter')
        const next = String(Number(await object.text()) + 1)
        try {
          await store.put('bucket', 'counter', next, { ifMatch: object.version })
          done++
        } catch (error) {
          if (!isStoreError(error) || error.code !== 'CONDITION_FAILED') throw error
        }
      }
    }
    await Promise.all([writer(), writer(), writer(), writer()])
    expect(await (await store.get('bucket', 'counter')).text()).to.equal('20')
  })

  it('gives one of two whole contents when two write one key', async () => {
    const contents = [content(11, 5_000_000), content(12, 6_000_000)]
    await Promise.all(contents.map(async (bytes) => await store.put('bucket', 'both', bytes)))
    const seen = sha256(await (await store.get('bucket', 'both')).bytes())
    expect(contents.map(sha256)).to.include(seen)
  })
})

describe('real processes: without a majority of meta nodes', function () {
  this.timeout(60_000)

  it('says so with exit code 5, and works again when they are back', async () => {
    const cluster = await TestCluster.start({ storage: 3 })
    try {
      await cluster.ok(['mb', 'bucket'])
      await cluster.kill('m1')
      await cluster.kill('m2')
      const ended = await cluster.run(['put', '-', 'bucket/x', '--timeout', '3s'], 'x')
      expectError(ended, 5, /quorum|answer|time/i, 'no quorum')
      cluster.startNode('m1')
      await until('writes work again', async () => (await cluster.run(['put', '-', 'bucket/x'], 'x')).code === 0)
    } finally {
      await cluster.stop()
    }
  })

  it('refuses meta nodes and a storage node of another cluster', async () => {
    const [one, two] = [
      await TestCluster.start({ meta: 1, storage: 1 }),
      await TestCluster.start({ meta: 1, storage: 1 }),
    ]
    try {
      for (const meta of [
        [...one.meta, ...two.meta],
        [...two.meta, ...one.meta],
      ]) {
        const ended = await runCli(['mb', 'mixed', '--meta', meta.join(',')])
        expectError(ended, 1, /belongs to cluster .* name nodes of one cluster/, 'meta nodes of two clusters')
      }
      expect((await one.run(['ls'])).stdout + (await two.run(['ls'])).stdout).not.to.include('mixed')
      await one.kill('s1', 'SIGTERM')
      const port = await freePort()
      const args = ['storage', '--id', 's1', '--listen', `127.0.0.1:${port}`, '--disk', one.node('s1').directory]
      const stranger = spawnCli([...args, '--meta', two.meta.join(','), '--zone', 'z1'])
      await until('the stranger is refused', () => /another cluster|WRONG_CLUSTER/.test(stranger.output()), 20_000)
      stranger.child.kill('SIGKILL')
      await stranger.ended
    } finally {
      await one.stop()
      await two.stop()
    }
  })
})
