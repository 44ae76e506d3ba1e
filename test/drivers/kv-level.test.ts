/**
 * The LevelDB driver against the kv port.
 */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { utf8 } from '../../src/base/bytes.ts'
import { createLevelFactory } from '../../src/drivers/kv-level.ts'
import { isStoreError } from '../../src/model/errors.ts'
import type { Kv, KvEntry, KvFactory, KvRange } from '../../src/ports/kv.ts'
import { rotTable } from '../support/damage.ts'

const text = (bytes: Uint8Array | undefined): string | undefined => bytes && Buffer.from(bytes).toString()

describe('kv over LevelDB', () => {
  let directory: string
  let factory: KvFactory
  let kv: Kv

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'holdfast-kv-'))
    factory = createLevelFactory(directory)
    kv = await factory.open('one')
  })
  afterEach(async () => {
    await kv.close()
    await rm(directory, { recursive: true, force: true })
  })

  async function put(entries: Record<string, string>, sync = false): Promise<void> {
    const operations = Object.entries(entries).map(([key, value]) => ({
      type: 'put' as const,
      key: utf8(key),
      value: utf8(value),
    }))
    await kv.batch(operations, { sync })
  }

  async function keysOf(
    source: { iterate(range: KvRange): AsyncIterable<KvEntry> },
    range: KvRange,
  ): Promise<string[]> {
    const out: string[] = []
    for await (const { key } of source.iterate(range)) out.push(text(key) ?? '')
    return out
  }

  it('gives back what was put, both ways, and undefined for what was not', async () => {
    await put({ a: '1', b: '2' }, true)
    await kv.batch([{ type: 'del', key: utf8('a') }], { sync: false })
    expect(text(await kv.get(utf8('b')))).equal('2')
    expect(text(kv.getSync(utf8('b')))).equal('2')
    expect(await kv.get(utf8('a'))).equal(undefined)
    expect(kv.getSync(utf8('a'))).equal(undefined)
  })

  it('scans ranges in byte order, both ways, with a limit', async () => {
    const entries: Record<string, string> = {}
    for (let i = 0; i < 300; i++) entries[`k${String(i).padStart(3, '0')}`] = 'x'
    await put(entries)
    expect(await keysOf(kv, {})).deep.equal(Object.keys(entries))
    expect(await keysOf(kv, { gte: utf8('k010'), lt: utf8('k013') })).deep.equal(['k010', 'k011', 'k012'])
    expect(await keysOf(kv, { lt: utf8('k200'), reverse: true, limit: 2 })).deep.equal(['k199', 'k198'])
  })

  it('keeps a snapshot as it was', async () => {
    await put({ a: '1' })
    const snapshot = kv.snapshot()
    await put({ a: '2', b: '2' })
    expect(text(await snapshot.get(utf8('a')))).equal('1')
    expect(await keysOf(snapshot, {})).deep.equal(['a'])
    await snapshot.close()
  })

  it('survives flush, close and open', async () => {
    await put({ a: '1' })
    await kv.flush()
    await kv.close()
    kv = await factory.open('one')
    expect(text(await kv.get(utf8('a')))).equal('1')
  })

  it('says LOCKED in one line when it is open already', async () => {
    try {
      await createLevelFactory(directory).open('one')
      expect.fail('opened twice')
    } catch (error) {
      expect(isStoreError(error) && error.code).equal('LOCKED')
      expect((error as Error).message)
        .include(directory)
        .and.not.include('\n')
    }
  })

  it('destroys a closed store', async () => {
    const two = await factory.open('two')
    await two.batch([{ type: 'put', key: utf8('a'), value: utf8('1') }], { sync: true })
    await two.close()
    await factory.destroy('two')
    const again = await factory.open('two')
    expect(await again.get(utf8('a'))).equal(undefined)
    await again.close()
  })

  it('tells rot in its files from other failures: CORRUPT', async () => {
    const many = Object.fromEntries(Array.from({ length: 500 }, (_, i) => [`key ${i}`, `value ${i} ${i * 7919}`]))
    await put(many, true)
    // An open moves what its log holds into a table.
    for (let i = 0; i < 2; i++) {
      await kv.close()
      if (i === 1) await rotTable(join(directory, 'one'))
      kv = await factory.open('one')
    }
    const failure = await keysOf(kv, {}).then(
      () => undefined,
      (error: unknown) => error,
    )
    expect(isStoreError(failure) && failure.code, String(failure)).equal('CORRUPT')
  })
})
