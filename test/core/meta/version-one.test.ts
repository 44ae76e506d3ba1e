/**
 * Cluster version 1 means the same to this program and to the released one: the same commands give the same answers, the
 * same bytes and the same digest, so that both may be members of one cluster, and a node may be rolled back.
 */

import { expect } from 'chai'
import fc from 'fast-check'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type * as Apply from '../../../src/core/meta/apply.ts'
import { type Command, decodeCommand, encodeCommand, versionOf } from '../../../src/core/meta/commands.ts'
import type * as Commands from '../../../src/core/meta/commands.ts'
import type * as View from '../../../src/core/meta/view.ts'
import { newestVersion } from '../../../src/model/version.ts'
import { release010 } from '../../support/released.ts'
import { type Step, step, Walker } from './walker.ts'
import { id, nameOfKey, World } from './world.ts'

interface Released {
  readonly applyEntry: typeof Apply.applyEntry
  readonly decodeCommand: typeof Commands.decodeCommand
  readonly StateView: typeof View.StateView
  readonly readApplied: typeof View.readApplied
}

async function released(): Promise<Released> {
  const { cli } = await release010()
  const load = async (file: string): Promise<object> =>
    (await import(pathToFileURL(join(dirname(cli), '../core/meta', file)).href)) as object
  return { ...(await load('apply.js')), ...(await load('commands.js')), ...(await load('view.js')) } as Released
}

/** The released program's state after the entries of a log, and its answers. */
function replay(old: Released, log: World['log']): { map: Map<string, Uint8Array>; replies: unknown[] } {
  const map = new Map<string, Uint8Array>()
  const reader = { getSync: (key: Uint8Array) => map.get(nameOfKey(key)) }
  const replies: unknown[] = []
  for (const [i, { payload }] of log.entries()) {
    const view = new old.StateView(reader, old.readApplied(reader))
    replies.push(old.applyEntry(view, { index: i + 1, term: 1 }, old.decodeCommand(payload)).reply)
    for (const write of view.finish()) {
      if (write.type === 'put') map.set(nameOfKey(write.key), write.value)
      else map.delete(nameOfKey(write.key))
    }
  }
  return { map, replies }
}

function play(steps: readonly Step[]): World {
  const world = World.founded()
  const walker = new Walker(world)
  for (const one of steps) {
    if (one.do === 'wait') world.nowMs += one.ms
    else if (one.do === 'lease') walker.lease = world.lease()
    else if (one.do === 'register') world.register(`n${one.node}`, [id(0xd0 + one.node)], id(one.start))
    const body = walker.command(one)
    if (body !== undefined) world.run(body)
  }
  return world
}

function rows(map: ReadonlyMap<string, Uint8Array>): [string, Uint8Array][] {
  return [...map].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, value]) => [name, new Uint8Array(value)])
}

/** Plain values: etags of one program are views, those of another copies. */
function plain(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value, (_name, one: unknown) => (one instanceof Uint8Array ? [...one] : one)))
}

describe('cluster version 1', () => {
  let old: Released

  before(async () => {
    old = await released()
  })

  it('is the same state, answers and digest in the released program', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 20, maxLength: 100, size: 'max' }), (steps) => {
        const world = play(steps)
        const { map, replies } = replay(old, world.log)
        expect(plain(world.log.map(({ reply }) => reply))).to.deep.equal(plain(replies))
        expect(rows(world.map)).to.deep.equal(rows(map))
      }),
      { numRuns: 60 },
    )
  })

  it('knows the commands of version 1 under the tags that the released program reads', () => {
    const bare: Partial<Record<Command['kind'], true>> = {}
    for (const { payload } of play([]).log) {
      const command = decodeCommand(payload)
      bare[command.kind] = true
      expect(versionOf(command.kind, false)).to.equal(1)
      expect(plain(old.decodeCommand(payload))).to.deep.equal(plain(command))
    }
    expect(Object.keys(bare)).to.include.members(['found', 'registerNode', 'createBucket', 'grantLease'])
  })

  it('has no command of version 2, but for the raise itself', () => {
    const world = World.founded(1)
    const two = [
      { kind: 'setQuota', bucket: '', bytesMax: 1, objectsMax: 1 },
      { kind: 'openSession', session: id(1), ttlMs: 1 },
      { kind: 'keepSession', session: id(1) },
      { kind: 'closeSession', session: id(1) },
      { kind: 'expireSessions', sessions: [] },
      { kind: 'inSession', session: id(1), sequence: 1, lowest: 1, body: new Uint8Array(0) },
      { kind: 'reserveChunkIds', above: 1 },
      { kind: 'resumeDeletes' },
    ] as const
    for (const command of two) {
      expect(versionOf(command.kind, false)).to.equal(2)
      world.refused(command, 'INCOMPATIBLE_VERSION')
      expect(() => old.decodeCommand(encodeCommand({ ...command, nowMs: 1 } as Command))).to.throw()
    }
    world.ok({ kind: 'raiseVersion', version: 2 })
    for (const command of two) expect(world.run(command)).not.to.include({ code: 'INCOMPATIBLE_VERSION' })
  })

  it('takes what belongs to a recovery, after which there is no way back to the older program', () => {
    const world = World.founded(1)
    const { nextChunk } = world.cluster()
    world.refused({ kind: 'reserveChunkIds', above: nextChunk + 1 }, 'INCOMPATIBLE_VERSION')
    world.ok({ kind: 'recovered', incarnation: 2 })
    expect(world.cluster()).to.include({ version: 1, incarnation: 2, deletesHeld: true })
    expect(world.cluster().nextChunk).to.equal(nextChunk + 1024 * 65_536)
    world.ok({ kind: 'reserveChunkIds', above: nextChunk + 2000 * 65_536 })
    expect(world.cluster().nextChunk).to.equal(nextChunk + 2000 * 65_536)
    world.ok({ kind: 'resumeDeletes' })
    expect(world.cluster()).to.include({ version: 1, deletesHeld: false })
    world.refused({ kind: 'openSession', session: id(1), ttlMs: 1 }, 'INCOMPATIBLE_VERSION')
  })

  it('ends with the raise, which never goes back', () => {
    const world = World.founded(1)
    world.ok({ kind: 'raiseVersion', version: newestVersion })
    expect(world.effects).to.deep.equal([{ kind: 'cluster' }])
    world.ok({ kind: 'raiseVersion', version: 1 })
    expect([world.cluster().version, world.effects.length]).to.deep.equal([newestVersion, 0])
  })
})
