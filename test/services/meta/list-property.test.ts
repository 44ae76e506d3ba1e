/**
 * Lists against a sorted array: prefix, delimiter, paging. Every page is that of the state at the index it names, while
 * objects come and go between the pages.
 */

import { expect } from 'chai'
import fc from 'fast-check'
import { compareBytes, utf8 } from '../../../src/base/bytes.ts'
import { metaMethods as meta } from '../../../src/wire/methods.ts'
import { id, MetaKit } from './kit.ts'

interface Query {
  readonly prefix: string
  readonly after: string
  readonly delimiter: string
  readonly limit: number
}

function byBytes(a: string, b: string): number {
  return compareBytes(utf8(a), utf8(b))
}

/** Every entry that a list gives, in order; a folded prefix ends with the delimiter and stands for all below it. */
function listed(keys: readonly string[], { prefix, after, delimiter }: Query): string[] {
  const out: string[] = []
  for (const key of keys.filter((one) => one.startsWith(prefix)).sort(byBytes)) {
    const at = delimiter === '' ? -1 : key.indexOf(delimiter, prefix.length)
    const entry = at < 0 ? key : key.slice(0, at + delimiter.length)
    const skipped =
      after !== '' &&
      (byBytes(entry, after) <= 0 || (delimiter !== '' && after.endsWith(delimiter) && key.startsWith(after)))
    if (!skipped && out.at(-1) !== entry) out.push(entry)
  }
  return out
}

function isFolded(entry: string, { prefix, delimiter }: Query): boolean {
  return delimiter !== '' && entry.includes(delimiter, prefix.length)
}

const letter = fc.constantFrom('a', 'b', '/', '/', 'é', '😀', '-')
const part = fc.array(letter, { minLength: 1, maxLength: 5 }).map((letters) => letters.join(''))
const key = part.filter((one) => !one.includes('//') && !one.startsWith('/') && !one.endsWith('/'))

describe('lists of objects against a sorted array', () => {
  it('give every page of the state at its index, whatever changes between pages', async () => {
    const kit = await MetaKit.open()
    let draws = 0
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(key, { maxLength: 30 }),
        fc.record({
          prefix: fc.oneof(fc.constant(''), part),
          delimiter: fc.constantFrom('', '/', 'é'),
          limit: fc.integer({ min: 1, max: 7 }),
        }),
        fc.array(fc.record({ key, remove: fc.boolean() }), { maxLength: 12 }),
        async (keys, wanted, changes) => {
          const bucket = `bucket-${draws++}`
          await kit.call(meta.createBucket, { name: bucket, commitId: id(draws) })
          const now = new Set<string>()
          const history = new Map<number, readonly string[]>()
          const change = async (name: string, remove: boolean): Promise<void> => {
            if (remove && !now.has(name)) return
            const put = { put: { bucket, key: name, size: 0, etag: '0123456789abcdef', copies: 3, write: 'quorum' } }
            const operation = remove ? { delete: { bucket, key: name } } : put
            await kit.call(meta.commit, {
              commitId: id(1_000_000 + draws++),
              lease: 0,
              operations: [operation],
            } as never)
            if (remove) now.delete(name)
            else now.add(name)
            history.set(kit.log.index, [...now])
          }
          history.set(kit.log.index, [])
          for (const name of keys) await change(name, false)
          let after = ''
          for (let pages = 0; pages < 60; pages++) {
            const query = { ...wanted, after }
            const reply = await kit.call(meta.listObjects, { bucket, ...query })
            const state = history.get(reply.index)
            expect(state, `index ${reply.index}`).not.to.equal(undefined)
            const expected = listed(state ?? [], query)
            expect(reply.entries.map((entry) => entry.key)).to.deep.equal(expected.slice(0, query.limit))
            expect(reply.next).to.equal(expected.length > query.limit ? expected[query.limit - 1] : '')
            for (const entry of reply.entries) expect(entry.isPrefix).to.equal(isFolded(entry.key, query))
            if (reply.next === '') break
            expect(byBytes(reply.next, after)).to.be.greaterThan(0)
            after = reply.next
            const next = changes[pages]
            if (next !== undefined) await change(next.key, next.remove)
          }
        },
      ),
      { numRuns: 60 },
    )
  }).timeout(120_000)
})
