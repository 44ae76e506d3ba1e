/** Client sessions: every call is carried out once, and its answer is the first one, whatever is repeated or forgotten. */

import { expect } from 'chai'
import fc from 'fast-check'
import { type Command, encodeCommand, type Reply } from '../../../src/core/meta/commands.ts'
import { keys } from '../../../src/core/meta/keys.ts'
import { bucketsMax } from '../../../src/core/meta/namespace.ts'
import { sessionRecord } from '../../../src/core/meta/records.ts'
import { sessionCallsMax, sessionsForgottenMax, sessionsMax } from '../../../src/core/meta/sessions.ts'
import { anyCondition, id, World } from './world.ts'

type Body = Parameters<World['run']>[0]

/** The command inside the call `sequence` of a session. */
function call(session: number, sequence: number, command: Body, lowest = 1): Body {
  const body = encodeCommand({ ...command, nowMs: 0 } as Command)
  return { kind: 'inSession', session: id(session), sequence, lowest, body }
}

const grant = { kind: 'grantLease', ttlMs: 60_000 } as const

describe('client sessions', () => {
  let world: World

  beforeEach(() => {
    world = World.founded(4, 2)
    world.ok({ kind: 'openSession', session: id(1), ttlMs: 60_000 })
  })

  it('are refused by a cluster of version 1', () => {
    const old = World.founded(1)
    old.refused({ kind: 'openSession', session: id(1), ttlMs: 1 }, 'INCOMPATIBLE_VERSION')
    old.refused(call(1, 1, grant), 'INCOMPATIBLE_VERSION')
    expect(old.map.get('A')?.length).to.be.below(40)
  })

  it('carry a call out once and answer it the same ever after', () => {
    const first = world.ok(call(1, 1, grant))
    const { nextChunk } = world.cluster()
    const second = world.ok(call(1, 2, grant))
    expect(world.ok(call(1, 1, grant))).to.deep.equal(first)
    expect(world.ok(call(1, 2, grant))).to.deep.equal(second)
    expect(second).not.to.deep.equal(first)
    expect(world.cluster().nextChunk).to.equal(nextChunk + 65_536)
  })

  it('keep refusals like any other reply', () => {
    const remove = { kind: 'deleteBucket', name: 'pictures' } as const
    const refused = world.run(call(1, 1, remove))
    expect(refused).to.include({ ok: false, code: 'NOT_FOUND' })
    world.ok({ kind: 'createBucket', name: 'pictures', commitId: id(9) })
    expect(world.run(call(1, 1, remove))).to.deep.equal(refused)
    expect(world.has(keys.bucket('pictures'))).to.equal(true)
    expect(world.ok(call(1, 2, remove)).kind).to.equal('done')
  })

  it('keep no refusal that passes by itself: the call is carried out when it comes again', () => {
    for (let n = 1; n < bucketsMax; n++) world.run({ kind: 'createBucket', name: `b-${n}`, commitId: id(n) })
    const one = call(1, 1, { kind: 'createBucket', name: 'pictures', commitId: id(1) })
    world.refused(one, 'OVERLOADED')
    world.refused(one, 'OVERLOADED')
    expect(world.count('r')).to.equal(0)
    world.ok({ kind: 'deleteBucket', name: 'b-7' })
    const made = world.ok(one)
    world.ok({ kind: 'deleteBucket', name: 'pictures' })
    expect(world.ok(one)).to.deep.equal(made)
    expect(world.has(keys.bucket('pictures'))).to.equal(false)
  })

  it('are not opened anew by an opening that comes after the end, for as long as they would have lived', () => {
    const granted = world.ok(call(1, 1, grant))
    expect(granted.kind).to.equal('lease')
    world.ok({ kind: 'closeSession', session: id(1) })
    world.nowMs += 30_000
    world.ok({ kind: 'closeSession', session: id(1) })
    world.refused({ kind: 'openSession', session: id(1), ttlMs: 60_000 }, 'SESSION_EXPIRED')
    world.refused({ kind: 'keepSession', session: id(1) }, 'SESSION_EXPIRED')
    world.refused(call(1, 1, grant), 'SESSION_EXPIRED')
    world.refused(call(1, 900, grant, 900), 'SESSION_EXPIRED')
    expect([world.count('e'), world.count('r'), world.applied().sessions]).to.deep.equal([1, 0, 1])
    world.nowMs += 29_999
    world.ok({ kind: 'expireSessions', sessions: [id(1)] })
    expect(world.count('e')).to.equal(1)
    world.nowMs += 1
    world.ok({ kind: 'expireSessions', sessions: [id(1)] })
    expect([world.count('e'), world.applied().sessions]).to.deep.equal([0, 0])
  })

  it('answer a repeated commit with its names, and a delete of what is long gone', () => {
    const lease = world.lease()
    const put = {
      kind: 'commit',
      commitId: id(7),
      lease,
      operations: [world.put('k', [world.acked(lease, [1, 2])])],
    } as const
    const removed = { kind: 'delete', bucket: 'photos', key: 'k', condition: anyCondition } as const
    const done = world.ok(call(1, 1, put))
    const gone = world.ok(call(1, 2, { kind: 'commit', commitId: id(8), lease: 0, operations: [removed] }))
    expect(world.ok(call(1, 1, put))).to.deep.equal(done)
    expect(world.ok(call(1, 2, { kind: 'commit', commitId: id(8), lease: 0, operations: [removed] }))).to.deep.equal(
      gone,
    )
    expect(done.kind === 'committed' && done.objects[0]?.key).to.equal('k')
    // The commit id knows its outcome too, also outside the session.
    expect(world.ok(put)).to.deep.equal(done)
  })

  it('refuse one number for two calls', () => {
    world.ok(call(1, 1, grant))
    world.refused(call(1, 1, { kind: 'deleteBucket', name: 'photos' }), 'CONFLICT')
    const lease = world.lease()
    const operations = [world.put('k', [world.acked(lease, [1, 2])])]
    world.ok(call(1, 2, { kind: 'commit', commitId: id(7), lease, operations }))
    const two = { kind: 'commit', commitId: id(7), lease, operations: [...operations, ...operations] } as const
    world.refused(call(1, 2, two), 'CONFLICT')
  })

  it('forget the replies below the lowest outstanding call and never carry those out again', () => {
    for (const sequence of [1, 2, 3]) world.ok(call(1, sequence, grant))
    expect(world.count('r')).to.equal(3)
    const { nextChunk } = world.cluster()
    world.ok(call(1, 4, { kind: 'renewLease', id: 65_536 * 1, ttlMs: 1 }, 3))
    expect(world.count('r')).to.equal(2)
    for (const sequence of [1, 2]) world.refused(call(1, sequence, grant), 'SESSION_EXPIRED')
    expect(world.ok(call(1, 3, grant)).kind).to.equal('lease')
    expect(world.cluster().nextChunk).to.equal(nextChunk)
    // An older idea of what is outstanding brings nothing back.
    world.refused(call(1, 2, grant), 'SESSION_EXPIRED')
  })

  it('bound the calls that are not settled', () => {
    for (let sequence = 1; sequence <= sessionCallsMax; sequence++) world.run(call(1, sequence, grant))
    world.refused(call(1, sessionCallsMax + 1, grant), 'OVERLOADED')
    world.ok(call(1, sessionCallsMax, grant))
    world.ok(call(1, sessionCallsMax + 1, grant, 2))
    expect(world.count('r')).to.equal(sessionCallsMax)
  })

  it('live until they are closed, or forgotten by the committed time', () => {
    world.refused({ kind: 'keepSession', session: id(2) }, 'SESSION_EXPIRED')
    world.nowMs += 59_999
    world.ok({ kind: 'expireSessions', sessions: [id(1), id(3)] })
    world.ok(call(1, 1, grant))
    world.nowMs += 59_999
    world.ok({ kind: 'expireSessions', sessions: [id(1)] })
    world.ok({ kind: 'keepSession', session: id(1) })
    world.nowMs += 10_000_000
    // Nobody has said that it is over: it is not.
    world.ok(call(1, 1, grant))
    world.nowMs += 60_000
    world.ok({ kind: 'expireSessions', sessions: [id(1)] })
    expect([world.count('e'), world.count('r'), world.applied().sessions]).to.deep.equal([0, 0, 0])
    world.refused(call(1, 1, grant), 'SESSION_EXPIRED')
    world.ok({ kind: 'closeSession', session: id(1) })
  })

  it('are opened once by one id, and live on when opened again', () => {
    world.ok(call(1, 1, grant))
    world.nowMs += 50_000
    const again = world.ok({ kind: 'openSession', session: id(1), ttlMs: 5 })
    expect(again).to.deep.equal({ ok: true, kind: 'session', ttlMs: 60_000, callsMax: sessionCallsMax })
    expect(world.get(keys.session(id(1)), sessionRecord)?.expiresMs).to.equal(world.nowMs + 60_000)
    expect([world.count('r'), world.applied().sessions]).to.deep.equal([1, 1])
  })

  it('fill a table that drops none of them', () => {
    for (let n = 2; n <= sessionsMax; n++) world.run({ kind: 'openSession', session: id(n), ttlMs: 1_000 })
    expect(world.applied().sessions).to.equal(sessionsMax)
    // One that is closed makes room at once.
    world.ok({ kind: 'closeSession', session: id(9_000) })
    world.ok({ kind: 'openSession', session: id(sessionsMax + 1), ttlMs: 1_000 })
    expect(world.applied().sessions).to.equal(sessionsMax)
    world.nowMs += 10_000_000
    world.refused({ kind: 'openSession', session: id(1_000_000), ttlMs: 1_000 }, 'OVERLOADED')
    world.ok({ kind: 'openSession', session: id(77), ttlMs: 1_000 })
    const gone = Array.from({ length: sessionsForgottenMax }, (_, i) => id(i + 2))
    world.nowMs += 1_000
    world.refused({ kind: 'expireSessions', sessions: [...gone, id(99)] }, 'INVALID_ARGUMENT')
    world.ok({ kind: 'expireSessions', sessions: gone })
    world.ok({ kind: 'openSession', session: id(1_000_000), ttlMs: 1_000 })
    expect(world.count('e')).to.equal(sessionsMax - sessionsForgottenMax + 1)
  })

  it('carry no calls of sessions, no upkeep, and nothing that is no command', () => {
    for (const command of [
      call(1, 9, grant),
      { kind: 'openSession', session: id(5), ttlMs: 1 },
      { kind: 'expireSessions', sessions: [] },
      { kind: 'raiseVersion', version: 2 },
      { kind: 'recovered', incarnation: 2 },
      { kind: 'expireLease', id: 1 },
    ] as const) {
      if (command.kind === 'expireLease') world.ok(call(1, 1, command))
      else world.refused(call(1, 1, command), 'INVALID_ARGUMENT')
    }
    for (const body of [new Uint8Array(0), new Uint8Array([200, 1]), new Uint8Array([4])]) {
      world.refused({ kind: 'inSession', session: id(1), sequence: 2, lowest: 1, body }, 'INVALID_ARGUMENT')
    }
    for (const [sequence, lowest] of [
      [0, 0],
      [1, 0],
      [1, 2],
    ] as const) {
      world.refused(call(1, sequence, grant, lowest), 'INVALID_ARGUMENT')
    }
  })
})

/** Sessions as they ought to be. */
class Model {
  readonly sessions = new Map<number, { expiresMs: number; lowest: number; replies: Map<number, Reply> }>()
  /** Closed, and when they are forgotten. */
  readonly closed = new Map<number, number>()
  readonly ttlMs = 60_000
}

const small = (max: number) => fc.integer({ min: 1, max })
const step = fc.oneof(
  { weight: 2, arbitrary: fc.record({ do: fc.constant('open' as const), session: small(3) }) },
  {
    weight: 10,
    arbitrary: fc.record({
      do: fc.constant('call' as const),
      session: small(3),
      sequence: small(8),
      lowest: small(8),
      what: fc.constantFrom('grant' as const, 'make' as const, 'remove' as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('keep' as const), session: small(3) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('close' as const), session: small(3) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('expire' as const) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.constantFrom(1, 30_000, 60_000) }) },
)
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

/** The command of a step; each carrying out would leave its own trace. */
function commandOf(one: Step): Body | undefined {
  switch (one.do) {
    case 'open':
      return { kind: 'openSession', session: id(one.session), ttlMs: 60_000 }
    case 'keep':
      return { kind: 'keepSession', session: id(one.session) }
    case 'close':
      return { kind: 'closeSession', session: id(one.session) }
    case 'expire':
      return { kind: 'expireSessions', sessions: [id(1), id(2), id(3)] }
    case 'wait':
      return undefined
    default: {
      // A number is one call's: what it asks for follows from the number.
      const kind = one.sequence % 3
      const name = `b-${one.session}-${one.sequence % 4}`
      const inner: Body =
        kind === 0
          ? grant
          : kind === 1
            ? { kind: 'createBucket', name, commitId: id(one.session * 100 + one.sequence) }
            : { kind: 'deleteBucket', name }
      return call(one.session, one.sequence, inner, Math.min(one.lowest, one.sequence))
    }
  }
}

function check(model: Model, one: Step, nowMs: number, reply: Reply): void {
  const code = reply.ok ? 'ok' : reply.code
  if (one.do === 'wait') return
  if (one.do === 'expire') {
    for (const [session, { expiresMs }] of model.sessions) if (expiresMs <= nowMs) model.sessions.delete(session)
    for (const [session, expiresMs] of model.closed) if (expiresMs <= nowMs) model.closed.delete(session)
    return
  }
  const session = model.sessions.get(one.session)
  const expiresMs = nowMs + model.ttlMs
  if (one.do === 'open' && model.closed.has(one.session)) {
    expect(code).to.equal('SESSION_EXPIRED')
  } else if (one.do === 'open') {
    model.sessions.set(one.session, { lowest: 1, replies: new Map(), ...session, expiresMs })
  } else if (one.do === 'close') {
    if (model.sessions.delete(one.session)) model.closed.set(one.session, expiresMs)
  } else if (session === undefined) {
    expect(code).to.equal('SESSION_EXPIRED')
  } else if (one.do === 'keep') {
    session.expiresMs = expiresMs
  } else if (one.sequence < session.lowest) {
    expect(code).to.equal('SESSION_EXPIRED')
  } else {
    const known = session.replies.get(one.sequence)
    if (known === undefined) session.replies.set(one.sequence, reply)
    else expect(reply).to.deep.equal(known)
    session.expiresMs = expiresMs
    session.lowest = Math.max(session.lowest, Math.min(one.lowest, one.sequence))
    for (const sequence of session.replies.keys()) if (sequence < session.lowest) session.replies.delete(sequence)
  }
}

describe('client sessions against a model', () => {
  it('answer each call once, whatever is repeated, forgotten or expired, and however entries are grouped', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), small(7), (steps, group) => {
        const world = World.founded(1, 2)
        const grouped = World.founded(1, 2)
        const model = new Model()
        const before = world.cluster().nextChunk
        let waiting: Body[] = []
        const flush = (): void => {
          if (waiting.length > 0) grouped.runGroup(waiting)
          waiting = []
        }
        let grants = 0
        for (const one of steps) {
          if (one.do === 'wait') {
            flush()
            world.nowMs += one.ms
            grouped.nowMs += one.ms
          }
          const command = commandOf(one)
          if (command === undefined) continue
          const fresh =
            one.do === 'call' && one.sequence % 3 === 0 && !model.sessions.get(one.session)?.replies.has(one.sequence)
          const reply = world.run(command)
          if (fresh && reply.ok) grants++
          check(model, one, world.nowMs, reply)
          waiting.push(command)
          if (waiting.length >= group) flush()
        }
        flush()
        expect(world.cluster().nextChunk).to.equal(before + grants * 65_536)
        const kept = [...model.sessions.values()].reduce((sum, session) => sum + session.replies.size, 0)
        const known = model.sessions.size + model.closed.size
        expect([world.count('e'), world.count('r')]).to.deep.equal([known, kept])
        expect(world.applied().sessions).to.equal(known)
        expect(grouped.applied()).to.deep.equal(world.applied())
        expect(grouped.map).to.deep.equal(world.map)
      }),
      { numRuns: 150 },
    )
  })
})
