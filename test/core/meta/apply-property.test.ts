/** Random command sequences keep every invariant, and give the same state and digest however they are grouped. */

import { expect } from 'chai'
import fc from 'fast-check'
import type { ChunkRecord } from '../../../src/core/meta/records.ts'
import { checkInvariants, chunksOf } from './invariants.ts'
import { type Body, type Step, step, Walker } from './walker.ts'
import { id, World } from './world.ts'

/** The whole state in the order of its keys. */
function sortedRows(rows: ReadonlyMap<string, Uint8Array>): [string, Uint8Array][] {
  return [...rows].sort(([a], [b]) => (a < b ? -1 : 1))
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
  version = 1,
): { world: World; log: { body: Body; nowMs: number }[] } {
  const world = World.founded(4, version)
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
      fc.property(
        fc.array(step, { minLength: 20, maxLength: 100, size: 'max' }),
        fc.constantFrom(1, 2),
        (steps, version) => {
          play(steps, accepted, version)
        },
      ),
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
