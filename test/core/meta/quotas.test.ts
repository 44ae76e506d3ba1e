/** Quotas: no commit leaves a bucket or the cluster above one, and what only removes is always allowed. */

import { expect } from 'chai'
import fc from 'fast-check'
import type { Operation } from '../../../src/core/meta/commands.ts'
import { keys } from '../../../src/core/meta/keys.ts'
import { bucketRecord } from '../../../src/core/meta/records.ts'
import { anyCondition, id, World } from './world.ts'

/** A world that commits whole objects of any size. */
class Store {
  readonly world = World.founded(4, 2)
  readonly lease: number
  #chunks = 0
  #commits = 0x5000

  constructor() {
    this.lease = this.world.lease()
    this.world.ok({ kind: 'createBucket', name: 'music', commitId: id(0xb2) })
  }

  put(bucket: string, key: string, size: number): Operation {
    const chunk = { ...this.world.acked(this.lease + this.#chunks++, [1, 2, 3]), length: size }
    return this.world.put(key, size === 0 ? [] : [chunk], { bucket, size })
  }

  delete(bucket: string, key: string): Operation {
    return { kind: 'delete', bucket, key, condition: anyCondition }
  }

  copy(fromBucket: string, fromKey: string, bucket: string, key: string): Operation {
    return { kind: 'copy', fromBucket, fromKey, bucket, key, condition: anyCondition }
  }

  commit(...operations: Operation[]) {
    return { kind: 'commit', commitId: id(this.#commits++), lease: this.lease, operations } as const
  }

  quota(bucket: string, bytesMax: number, objectsMax: number): void {
    this.world.ok({ kind: 'setQuota', bucket, bytesMax, objectsMax })
  }

  totals(bucket: string): { objects: number; bytes: number } {
    const { objects, bytes } =
      bucket === ''
        ? this.world.applied()
        : (this.world.get(keys.bucket(bucket), bucketRecord) ?? { objects: -1, bytes: -1 })
    return { objects, bytes }
  }
}

describe('quotas', () => {
  it('refuse what would go beyond, and count an overwrite by the difference', () => {
    const store = new Store()
    store.quota('photos', 100, 2)
    store.world.ok(store.commit(store.put('photos', 'a', 60)))
    expect(store.world.refused(store.commit(store.put('photos', 'b', 41)), 'QUOTA_EXCEEDED')).to.contain('quota is 100')
    store.world.ok(store.commit(store.put('photos', 'a', 100)))
    store.world.refused(store.commit(store.put('photos', 'a', 101)), 'QUOTA_EXCEEDED')
    store.world.ok(store.commit(store.put('photos', 'b', 0)))
    store.world.refused(store.commit(store.put('photos', 'c', 0)), 'QUOTA_EXCEEDED')
    store.world.ok(store.commit(store.put('music', 'c', 1000)))
    store.world.ok(store.commit(store.delete('photos', 'b'), store.put('photos', 'c', 0)))
  })

  it('bound the cluster over all buckets', () => {
    const store = new Store()
    store.quota('', 100, 0)
    store.world.ok(store.commit(store.put('photos', 'a', 60), store.put('music', 'a', 40)))
    store.world.refused(store.commit(store.put('music', 'b', 1)), 'QUOTA_EXCEEDED')
    store.world.refused(store.commit(store.copy('photos', 'a', 'music', 'b')), 'QUOTA_EXCEEDED')
    store.quota('', 0, 0)
    store.world.ok(store.commit(store.copy('photos', 'a', 'music', 'b')))
  })

  it('let what is above go down', () => {
    const store = new Store()
    store.world.ok(store.commit(store.put('photos', 'a', 60), store.put('photos', 'b', 60)))
    store.quota('photos', 50, 1)
    store.world.ok(store.commit(store.put('photos', 'a', 59)))
    store.world.refused(store.commit(store.put('photos', 'a', 60)), 'QUOTA_EXCEEDED')
    store.world.ok(store.commit(store.delete('photos', 'b')))
    store.world.ok(store.commit(store.delete('photos', 'a')))
    expect(store.totals('photos')).to.deep.equal({ objects: 0, bytes: 0 })
  })

  it('count staged pages when they are committed', () => {
    const store = new Store()
    const { world, lease } = store
    store.quota('photos', 15, 0)
    const chunks = [world.acked(lease + 1000, [1, 2, 3]), world.acked(lease + 1001, [1, 2, 3])]
    world.ok({ kind: 'stagePage', commitId: id(7), lease, page: 0, chunks, copies: 3, concern: 'quorum' })
    const operations = [world.put('big', [], { stagedPages: 1, size: 20 })]
    world.refused({ kind: 'commit', commitId: id(7), lease, operations }, 'QUOTA_EXCEEDED')
    store.quota('photos', 20, 0)
    world.ok({ kind: 'commit', commitId: id(7), lease, operations })
  })

  it('need a bucket that is there, and survive its refilling', () => {
    const store = new Store()
    const quota = { kind: 'setQuota', bucket: 'none', bytesMax: 1, objectsMax: 1 } as const
    store.world.refused(quota, 'NOT_FOUND')
    World.founded(1).refused({ ...quota, bucket: 'photos' }, 'INCOMPATIBLE_VERSION')
    store.quota('photos', 10, 0)
    store.world.ok(store.commit(store.put('photos', 'a', 10)))
    store.world.ok(store.commit(store.delete('photos', 'a')))
    store.world.refused(store.commit(store.put('photos', 'a', 11)), 'QUOTA_EXCEEDED')
  })
})

const bucket = fc.constantFrom('photos', 'music')
const key = fc.constantFrom('a', 'b', 'c')
const operation = fc.oneof(
  fc.record({ do: fc.constant('put' as const), bucket, key, size: fc.integer({ min: 0, max: 50 }) }),
  fc.record({ do: fc.constant('delete' as const), bucket, key }),
  fc.record({ do: fc.constant('copy' as const), bucket, key, from: bucket, fromKey: key }),
)
const quotaStep = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('commit' as const),
      operations: fc.uniqueArray(operation, {
        minLength: 1,
        maxLength: 3,
        selector: (one) => `${one.bucket}/${one.key}`,
      }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('quota' as const),
      bucket: fc.constantFrom('', 'photos', 'music'),
      bytesMax: fc.constantFrom(0, 40, 100),
      objectsMax: fc.constantFrom(0, 1, 3),
    }),
  },
)

describe('quotas against a model', () => {
  it('accept and refuse alike, and total alike', () => {
    fc.assert(
      fc.property(fc.array(quotaStep, { maxLength: 40 }), (steps) => {
        const store = new Store()
        let objects = new Map<string, number>()
        const quotas = new Map<string, { bytesMax: number; objectsMax: number }>()
        const totalsOf = (of: ReadonlyMap<string, number>, name: string) => {
          const mine = [...of].filter(([path]) => name === '' || path.startsWith(`${name}/`))
          return { objects: mine.length, bytes: mine.reduce((sum, [, size]) => sum + size, 0) }
        }
        for (const one of steps) {
          if (one.do === 'quota') {
            store.quota(one.bucket, one.bytesMax, one.objectsMax)
            quotas.set(one.bucket, one)
            continue
          }
          const before = objects
          const after = new Map(objects)
          let missing = false
          for (const each of one.operations) {
            const path = `${each.bucket}/${each.key}`
            if (each.do === 'put') after.set(path, each.size)
            else if (each.do === 'delete') {
              missing ||= !before.has(path)
              after.delete(path)
            } else {
              const size = before.get(`${each.from}/${each.fromKey}`)
              missing ||= size === undefined
              after.set(path, size ?? 0)
            }
          }
          const over = ['', 'photos', 'music'].some((name) => {
            const was = totalsOf(before, name)
            const is = totalsOf(after, name)
            const { bytesMax, objectsMax } = quotas.get(name) ?? { bytesMax: 0, objectsMax: 0 }
            return (
              (bytesMax > 0 && is.bytes > bytesMax && is.bytes > was.bytes) ||
              (objectsMax > 0 && is.objects > objectsMax && is.objects > was.objects)
            )
          })
          const operations = one.operations.map((each) =>
            each.do === 'put'
              ? store.put(each.bucket, each.key, each.size)
              : each.do === 'delete'
                ? store.delete(each.bucket, each.key)
                : store.copy(each.from, each.fromKey, each.bucket, each.key),
          )
          const reply = store.world.run(store.commit(...operations))
          expect(reply.ok ? 'ok' : reply.code).to.equal(missing ? 'NOT_FOUND' : over ? 'QUOTA_EXCEEDED' : 'ok')
          if (reply.ok) objects = after
          for (const name of ['', 'photos', 'music']) expect(store.totals(name)).to.deep.equal(totalsOf(objects, name))
        }
      }),
      { numRuns: 120 },
    )
  })
})
