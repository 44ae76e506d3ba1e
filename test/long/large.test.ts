/** Sizes that take minutes: a 5 GiB file in bounded memory, and a tree of 10,000 files. */

import { createReadStream } from 'node:fs'
import { mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import { createHash } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { TestCluster } from '../support/cluster.ts'
import { content, treeSums } from '../support/content.ts'
import { peakResidentMiB, spawnCli } from '../support/processes.ts'

const GiB = 1 << 30

async function writeLarge(path: string, size: number): Promise<void> {
  const file = await open(path, 'w')
  for (let at = 0; at < size; at += 64 << 20)
    await file.write(content(at / (64 << 20) + 1, Math.min(64 << 20, size - at)))
  await file.close()
}

async function sum(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const piece of createReadStream(path, { highWaterMark: 4 << 20 })) hash.update(piece as Buffer)
  return hash.digest('hex')
}

describe('long: large inputs', function () {
  this.timeout(1_500_000)
  let cluster: TestCluster
  let scratch: string

  before(async () => {
    scratch = await mkdtemp(join(tmpdir(), 'holdfast-long-'))
    cluster = await TestCluster.start()
    await cluster.ok(['mb', 'large'])
  })

  after(async () => {
    await cluster?.stop()
    await rm(scratch, { recursive: true, force: true })
  })

  /** Runs a command and returns the most memory it had, in MiB. */
  async function watched(args: readonly string[]): Promise<number> {
    const running = spawnCli([...args, '--meta', cluster.meta.join(',')])
    let most = 0
    const watch = setInterval(() => {
      most = Math.max(most, peakResidentMiB(running.pid) ?? 0)
    }, 50)
    const ended = await running.ended
    clearInterval(watch)
    expect(ended.code, ended.stderr).to.equal(0)
    return most
  }

  it('puts and gets a 5 GiB file in bounded memory on every side', async () => {
    const path = join(scratch, 'five')
    const back = join(scratch, 'five-back')
    await writeLarge(path, 5 * GiB)
    expect(await watched(['put', path, 'large/five'])).to.be.lessThan(300)
    expect(await watched(['get', 'large/five', back])).to.be.lessThan(300)
    expect(await sum(back)).to.equal(await sum(path))
    for (const node of cluster.nodes) {
      expect(peakResidentMiB(cluster.pid(node.id)), node.id).to.be.within(1, node.kind === 'meta' ? 300 : 400)
    }
    await rm(path)
    await rm(back)
    await cluster.ok(['rm', 'large/five'])
  })

  it('puts and gets a tree of 10,000 small files', async () => {
    const tree = join(scratch, 'tree')
    for (let folder = 0; folder < 100; folder++) {
      await mkdir(join(tree, `d${folder}`), { recursive: true })
      for (let i = 0; i < 100; i++) {
        const seed = folder * 100 + i + 1
        await writeFile(join(tree, `d${folder}`, `f${i}`), content(seed, (seed * 131) % 20_000))
      }
    }
    expect(await watched(['put', '-r', tree, 'large/tree'])).to.be.lessThan(300)
    const back = join(scratch, 'tree-back')
    expect(await watched(['get', '-r', 'large/tree', back])).to.be.lessThan(300)
    expect(await treeSums(back)).to.deep.equal(await treeSums(tree))
  })
})
