/** Random commands of cluster version 1 for property tests: steps by what they do, and what they mean in a world. */

import fc from 'fast-check'
import { decode } from '../../../src/base/schema.ts'
import { keyParts, keys } from '../../../src/core/meta/keys.ts'
import { nodeRecord, trashRecord } from '../../../src/core/meta/records.ts'
import { chunksOf } from './invariants.ts'
import { anyCondition, id, type World } from './world.ts'

const small = (max: number) => fc.integer({ min: 0, max })
const disks = fc.uniqueArray(fc.integer({ min: 1, max: 4 }), { maxLength: 4 })

/** A step by what it does; the world it meets decides the rest. */
export const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant('put' as const), key: small(4), chunks: small(2), disks, copying: disks }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('pin' as const), chunk: small(7), disks }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('copy' as const), from: small(4), key: small(4) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('delete' as const), key: small(4) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('stage' as const), upload: small(2), chunk: small(7), disks }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('finish' as const), upload: small(2), key: small(4) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('abort' as const), upload: small(2) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('drop' as const) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('reclaim' as const) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('deleted' as const), disk: fc.integer({ min: 1, max: 4 }) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('unpin' as const), chunk: small(7) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('trim' as const),
      chunk: small(7),
      disk: fc.integer({ min: 1, max: 4 }),
      proof: disks,
      whole: fc.boolean(),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('change' as const),
      chunk: small(7),
      disk: fc.integer({ min: 1, max: 4 }),
      change: fc.constantFrom(
        'copied' as const,
        'copied' as const,
        'missing' as const,
        'corrupt' as const,
        'copy-failed' as const,
      ),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('lease' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('expire' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('down' as const), node: fc.integer({ min: 1, max: 4 }) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('register' as const),
      node: fc.integer({ min: 1, max: 4 }),
      start: small(2),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('reconciled' as const), disk: fc.integer({ min: 1, max: 4 }) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.constantFrom(1, 10_000, 1_000_000) }) },
)
export type Step = typeof step extends fc.Arbitrary<infer T> ? T : never
export type Body = Parameters<World['run']>[0]

/** The command a step means now. */
export class Walker {
  readonly world: World
  lease: number
  #draws = 0

  constructor(world: World) {
    this.world = world
    this.lease = world.lease()
  }

  #draw(): string {
    return id(0x1000 + this.#draws++)
  }

  #chunk(n: number): number {
    return this.lease + n
  }

  /** One of the chunks there are, so that upkeep seldom asks for nothing. */
  #known(n: number): number {
    const chunks = [...chunksOf(this.world).keys()]
    return chunks[n % Math.max(chunks.length, 1)] ?? this.#chunk(n)
  }

  command(one: Step): Body | undefined {
    const { world, lease } = this
    switch (one.do) {
      case 'put': {
        const chunks = Array.from({ length: one.chunks }, (_, i) =>
          world.acked(this.#chunk(one.key + i), one.disks, one.copying),
        )
        return { kind: 'commit', commitId: this.#draw(), lease, operations: [world.put(`k${one.key}`, chunks)] }
      }
      case 'pin': {
        const chunks = [world.acked(this.#chunk(one.chunk), one.disks)]
        return { kind: 'commitChunks', commitId: this.#draw(), lease, chunks, copies: 2, concern: 'one' }
      }
      case 'copy': {
        const names = { fromBucket: 'photos', fromKey: `k${one.from}`, bucket: 'photos', key: `k${one.key}` }
        return {
          kind: 'commit',
          commitId: this.#draw(),
          lease: 0,
          operations: [{ kind: 'copy', ...names, condition: anyCondition }],
        }
      }
      case 'delete': {
        const operation = { kind: 'delete', bucket: 'photos', key: `k${one.key}`, condition: anyCondition } as const
        return { kind: 'commit', commitId: this.#draw(), lease: 0, operations: [operation] }
      }
      case 'stage': {
        const chunks = [world.acked(this.#chunk(one.chunk), one.disks), world.acked(this.#chunk(one.chunk), one.disks)]
        return { kind: 'stagePage', commitId: id(one.upload), lease, page: 0, chunks, copies: 3, concern: 'quorum' }
      }
      case 'finish': {
        const operations = [world.put(`k${one.key}`, [], { stagedPages: 1, size: 20 })]
        return { kind: 'commit', commitId: id(one.upload), lease, operations }
      }
      default:
        return this.#upkeep(one)
    }
  }

  #upkeep(one: Step): Body | undefined {
    const { world } = this
    switch (one.do) {
      case 'abort':
        return { kind: 'abortUpload', manifest: id(one.upload) }
      case 'drop': {
        const found = [...world.map].find(([name]) => name.startsWith('t'))
        if (found === undefined) return undefined
        const key = Uint8Array.from(found[0], (c) => c.charCodeAt(0))
        return {
          kind: 'dropPage',
          manifest: keyParts.trash(key).manifest,
          page: decode(trashRecord, found[1]).nextPage,
        }
      }
      case 'reclaim':
        return { kind: 'reclaim', graceMs: 60_000, chunks: [...chunksOf(world).keys()] }
      case 'deleted':
        return {
          kind: 'deleted',
          disk: one.disk,
          generation: world.disk(one.disk).generation,
          chunks: [...chunksOf(world).keys()],
        }
      case 'unpin':
        return { kind: 'unpinChunk', chunk: this.#known(one.chunk) }
      case 'trim': {
        const proof = (one.whole ? [1, 2, 3, 4] : one.proof).map((disk) => ({
          disk,
          generation: world.disk(disk).generation,
        }))
        return { kind: 'trim', chunk: this.#known(one.chunk), disk: one.disk, proof }
      }
      case 'change': {
        const { generation } = world.disk(one.disk)
        const change = { chunk: this.#known(one.chunk), disk: one.disk, generation, change: one.change, finding: 'rot' }
        return { kind: 'replicas', changes: [change] }
      }
      case 'expire':
        return { kind: 'expireLease', id: this.lease }
      case 'down': {
        const record = world.get(keys.node(`n${one.node}`), nodeRecord)
        return { kind: 'nodeDown', node: `n${one.node}`, incarnation: record?.incarnation ?? id(0) }
      }
      case 'reconciled':
        return { kind: 'reconciled', disk: one.disk, generation: world.disk(one.disk).generation }
      default:
        return undefined
    }
  }
}
