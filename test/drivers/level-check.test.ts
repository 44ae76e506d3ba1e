/** The check of LevelDB's files: sound ones pass however they were left, and every byte that matters is seen to change. */

import { expect } from 'chai'
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { utf8 } from '../../src/base/bytes.ts'
import { createLevelFactory } from '../../src/drivers/kv-level.ts'
import { checkLevel } from '../../src/drivers/level-check.ts'
import { seeded } from '../support/disk-world.ts'

const all = Number.POSITIVE_INFINITY

describe('the check of a closed LevelDB', () => {
  let base = ''
  const store = (): string => join(base, 'store')

  before(async () => {
    base = await mkdtemp(join(tmpdir(), 'holdfast-level-check-'))
    const factory = createLevelFactory(base)
    const random = seeded(3)
    for (let life = 0; life < 3; life++) {
      const kv = await factory.open('store')
      const value = (): Uint8Array => Uint8Array.from({ length: 3000 }, (_, i) => (i % 3 === 0 ? random() * 256 : 7))
      const operations = Array.from({ length: 40 }, (_, i) => ({
        type: 'put' as const,
        key: utf8(`key ${life} ${i}`),
        value: value(),
      }))
      await kv.batch(operations, { sync: true })
      await kv.flush()
      await kv.batch([{ type: 'del', key: utf8(`key ${life} 3`) }], { sync: true })
      // As a kill leaves it: nothing was closed.
      if (life === 1) await cp(store(), join(base, 'killed'), { recursive: true })
      await kv.close()
    }
  })

  after(async () => {
    await rm(base, { recursive: true, force: true })
  })

  it('finds nothing wrong with sound ones, with new directories, and with none', async () => {
    const whole = await checkLevel(store(), all)
    expect(whole.damage).to.equal(undefined)
    expect(whole.tables).to.be.greaterThan(1)
    expect([whole.unchecked, whole.bytes > 100_000]).to.deep.equal([0, true])
    expect((await checkLevel(join(base, 'killed'), all)).damage).to.equal(undefined)
    expect((await checkLevel(join(base, 'nothing'), all)).damage).to.equal(undefined)
    expect((await checkLevel(store(), 0)).unchecked).to.equal(whole.bytes)
  })

  it('sees a flipped byte anywhere in tables, MANIFEST and CURRENT', async () => {
    const random = seeded(11)
    for (const name of await readdir(store())) {
      if (!/^(CURRENT|MANIFEST.*|.*\.ldb)$/.test(name)) continue
      const path = join(store(), name)
      const bytes = await readFile(path)
      // Between the handles and the magic of a table's footer is nothing that is read.
      const end = name.endsWith('.ldb') ? bytes.length - 48 : bytes.length
      for (let i = 0; i < 60; i++) {
        const at = name.endsWith('.ldb') ? Math.floor(random() * end) : i % end
        const bad = Buffer.from(bytes)
        bad[at] = (bad[at] as number) ^ (1 << Math.floor(random() * 8))
        await writeFile(path, bad)
        expect((await checkLevel(store(), all)).damage, `${name} byte ${at}`).to.be.a('string')
      }
      await writeFile(path, bytes)
    }
  })

  it('sees that CURRENT is gone, which LevelDB would take for a new store', async () => {
    const path = join(store(), 'CURRENT')
    const bytes = await readFile(path)
    await rm(path)
    expect((await checkLevel(store(), all)).damage).to.equal('CURRENT is missing')
    await writeFile(path, bytes)
  })
})
