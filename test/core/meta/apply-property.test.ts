/** Random command sequences keep every invariant, and give the same state and digest however they are grouped. */

import { expect } from 'chai'
import fc from 'fast-check'
import { nodeRecord, trashRecord } from '../../../src/core/meta/records.ts'
import { keyParts, keys } from '../../../src/core/meta/keys.ts'
import { decode } from '../../../src/base/schema.ts'
import type { ChunkRecord } from '../../../src/core/meta/records.ts'
import { checkInvariants, chunksOf } from './invariants.ts'
import { anyCondition, id, World } from './world.ts'

/** The whole state in the order of its keys. */
function sortedRows(rows: ReadonlyMap<string, Uint8Array>): [string, Uint8Array][] {
  return [...rows].sort(([a], [b]) => (a < b ? -1 : 1))
}

const small = (max: number) => fc.integer({ min: 0, max })
const disks = fc.uniqueArray(fc.integer({ min: 1, max: 4 }), { maxLength: 4 })

/** A step by what it does; the world it meets decides the rest. */
const step = fc.oneof(
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
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never
type Body = Parameters<World['run']>[0]

/** The command a step means now. */
class Walker {
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

/** No replica leaves `deleting` but by deletion, and a held chunk's replica enters it only with enough sound others. */
function checkTransitions(world: World, before: Map<number, ChunkRecord>): void {
  for (const [chunk, after] of chunksOf(world)) {
    for (const replica of before.get(chunk)?.replicas ?? []) {
      const now = after.replicas.find((one) => one.disk === replica.disk)
      if (replica.state === 'deleting' && now !== undefined) expect(now.state).to.equal('deleting')
      if (replica.state === 'deleting' || now?.state !== 'deleting' || after.references + Number(after.pinned) === 0)
        continue
      const sound = after.replicas.filter((one) => one.state === 'current' && world.disk(one.disk).reconciled)
      expect(sound.length).to.be.at.least(after.copies)
    }
  }
}

function play(
  steps: readonly Step[],
  accepted: Map<string, number>,
): { world: World; log: { body: Body; nowMs: number }[] } {
  const world = World.founded()
  const walker = new Walker(world)
  const log: { body: Body; nowMs: number }[] = []
  for (const one of steps) {
    if (one.do === 'wait') world.nowMs += one.ms
    else if (one.do === 'lease') walker.lease = world.lease()
    else if (one.do === 'register') world.register(`n${one.node}`, [id(0xd0 + one.node)], id(one.start))
    const body = walker.command(one)
    if (body === undefined) continue
    const before = chunksOf(world)
    const reply = world.run(body)
    if (reply.ok) accepted.set(one.do, (accepted.get(one.do) ?? 0) + 1)
    log.push({ body, nowMs: world.nowMs })
    checkInvariants(world)
    checkTransitions(world, before)
  }
  return { world, log }
}

describe('the metadata state machine', () => {
  it('keeps its invariants under random commands', () => {
    const accepted = new Map<string, number>()
    fc.assert(
      fc.property(fc.array(step, { minLength: 20, maxLength: 100, size: 'max' }), (steps) => {
        play(steps, accepted)
      }),
      { numRuns: 40 },
    )
    for (const kind of [
      'put',
      'copy',
      'stage',
      'finish',
      'abort',
      'drop',
      'reclaim',
      'deleted',
      'trim',
      'unpin',
      'change',
    ]) {
      expect(accepted.get(kind) ?? 0, `accepted ${kind}`).to.be.greaterThan(0)
    }
  })

  it('reaches the same state and digest however entries are grouped', () => {
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 10, maxLength: 60, size: 'max' }),
        fc.integer({ min: 2, max: 9 }),
        (steps, size) => {
          const once = play(steps, new Map())
          const bodies = once.log.map(({ body }) => body)
          const alone = World.founded()
          alone.lease()
          const grouped = World.founded()
          grouped.lease()
          const replies = bodies.map((body) => alone.run(body))
          const groupedReplies: unknown[] = []
          for (let i = 0; i < bodies.length; i += size)
            groupedReplies.push(...grouped.runGroup(bodies.slice(i, i + size)))
          expect(groupedReplies).to.deep.equal(replies)
          expect(grouped.applied()).to.deep.equal(alone.applied())
          expect(sortedRows(grouped.map)).to.deep.equal(sortedRows(alone.map))
        },
      ),
      { numRuns: 15 },
    )
  })
})
