/** Calls that change something happen exactly once, whatever is lost on the way (docs/RULES.md, rule 14). */

import { expect } from 'chai'
import { isStoreError, StoreError } from '../../src/model/errors.ts'
import { CallWindow } from '../../src/sdk/client-session.ts'
import { type ClientOptions, createClient } from '../../src/sdk/client.ts'
import type { Store } from '../../src/sdk/types.ts'
import { createFakeCluster, type FakeCluster } from './fake-cluster.ts'
import type { FakeSessions } from './fake-sessions.ts'

async function failure(work: Promise<unknown>): Promise<StoreError> {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  if (!isStoreError(error)) throw new Error(`did not fail with a StoreError: ${String(error)}`)
  return error
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2))
}

describe('client session', () => {
  let cluster: FakeCluster
  let sessions: FakeSessions
  let store: Store

  async function open(options: Partial<ClientOptions> = {}): Promise<void> {
    cluster = await createFakeCluster(3)
    sessions = cluster.meta.sessions
    store = createClient(cluster.env, { meta: ['meta:7400'], retryMs: 5000, ...options })
  }

  /** The first call of `kind` is carried out, or only lost, and never answered. */
  function loseFirst(kind: string, how: 'break' | 'break-after' | 'hang'): void {
    let lost = false
    cluster.meta.before = (request) => {
      if (lost || request.body !== kind) return undefined
      lost = true
      return how
    }
  }

  const count = (kind: string): number => cluster.meta.calls.filter((call) => call === kind).length

  beforeEach(() => open())

  afterEach(() => store.close())

  it('is opened by the first call that needs one, shared, and closed with the store', async () => {
    expect(await store.buckets.list()).to.have.lengthOf(1)
    expect(sessions.opened).to.deep.equal([])
    await Promise.all([store.buckets.create('pets'), store.buckets.create('cars'), store.put('photos', 'cat', 'miau')])
    expect(sessions.opened).to.have.lengthOf(1)
    expect(sessions.done.sort()).to.deep.equal(['createBucket', 'createBucket', 'grantLease'])
    await store.close()
    expect(sessions.open.size).to.equal(0)
    expect(sessions.done).to.include('releaseLease')
  })

  it('repeats a call whose answer was lost under its number, and answers what the first one did', async () => {
    await store.buckets.create('pets')
    loseFirst('deleteBucket', 'break-after')
    await store.buckets.delete('pets')
    expect(sessions.sent).to.deep.equal([1, 2, 2])
    expect(sessions.done).to.deep.equal(['createBucket', 'deleteBucket'])
  })

  it('repeats a call that nobody answered in time under its number', async () => {
    loseFirst('createBucket', 'hang')
    await store.buckets.create('pets')
    expect(sessions.sent).to.deep.equal([1])
    expect(count('createBucket')).to.equal(2)
  })

  it('tells a refusal whose answer was lost as the refusal it was, with a definite outcome', async () => {
    loseFirst('deleteBucket', 'break-after')
    const error = await failure(store.buckets.delete('none'))
    expect([error.code, error.outcome]).to.deep.equal(['NOT_FOUND', 'definite'])
    expect(sessions.done).to.deep.equal(['deleteBucket'])
  })

  it('fails with SESSION_EXPIRED and an unknown outcome when the call may have happened, and goes on in a new one', async () => {
    await store.buckets.create('pets')
    let broken = false
    cluster.meta.before = (request) => {
      if (request.body !== 'deleteBucket' || broken) return undefined
      broken = true
      sessions.expire()
      return 'break'
    }
    const error = await failure(store.buckets.delete('pets'))
    expect([error.code, error.outcome]).to.deep.equal(['SESSION_EXPIRED', 'unknown'])
    expect(cluster.meta.buckets.has('pets'), 'not carried out again').to.equal(true)
    await store.buckets.delete('pets')
    expect(sessions.opened).to.have.lengthOf(2)
  })

  it('goes on in a new session by itself when the call cannot have happened in the expired one', async () => {
    await store.buckets.create('pets')
    sessions.expire()
    await Promise.all([store.buckets.delete('pets'), store.buckets.create('cars')])
    expect(sessions.opened).to.have.lengthOf(2)
    expect(sessions.done.filter((kind) => kind === 'deleteBucket')).to.have.lengthOf(1)
  })

  it('carries the commits that a key can refuse, and no others', async () => {
    await store.put('photos', 'cat', 'miau')
    await store.put('photos', 'dog', 'wuff', { ifAbsent: true })
    await store.put('photos', 'dog', 'wau', { ifMatch: 2 })
    await store.copy({ bucket: 'photos', key: 'cat' }, { bucket: 'photos', key: 'cow' })
    await store.delete('photos', 'cat')
    expect(sessions.done.filter((kind) => kind === 'commit')).to.have.lengthOf(4)
    expect(count('commit')).to.equal(5)
  })

  it('is kept alive while the client is idle, and only then', async () => {
    sessions.ttlMs = 3000
    await store.buckets.create('pets')
    for (let i = 0; i < 20; i++) {
      await new Promise((resolve) => setTimeout(resolve, 10)) // 200 ms of the client's clock
      await store.buckets.create(`pets-${i}`)
    }
    const busy = sessions.keeps
    await until(() => sessions.keeps >= busy + 2)
    expect(busy).to.be.below(4)
    expect(sessions.opened).to.have.lengthOf(1)
  })

  it('opens a new one after a keep-alive found it expired', async () => {
    sessions.ttlMs = 600
    await store.buckets.create('pets')
    sessions.expire()
    const keeps = sessions.keeps
    await until(() => sessions.keeps > keeps)
    await store.buckets.delete('pets')
    expect(sessions.opened).to.have.lengthOf(2)
  })

  for (const mode of ['version 1', 'unknown', 'full'] as const) {
    it(`goes without where there is none to have: ${mode}`, async () => {
      sessions.mode = mode
      await store.buckets.create('pets')
      loseFirst('deleteBucket', 'break-after')
      await store.buckets.delete('pets')
      await store.put('photos', 'cat', 'miau')
      expect(count('openSession')).to.equal(1)
      expect(sessions.sent).to.deep.equal([])
    })
  }

  it('is not used by a client that wants none', async () => {
    await store.close()
    await open({ sessions: false })
    await store.buckets.create('pets')
    await store.put('photos', 'cat', 'miau')
    expect(count('openSession')).to.equal(0)
  })

  it('gives a failure to open it as one of a call that was not sent', async () => {
    cluster.meta.before = () => new StoreError('NOT_LEADER', 'no leader is known')
    const error = await failure(store.buckets.create('pets'))
    expect([error.code, error.outcome]).to.deep.equal(['NO_QUORUM', 'definite'])
  })

  it('is opened under one id however often the opening is repeated, also by another call', async () => {
    loseFirst('openSession', 'break-after')
    await store.buckets.create('pets')
    expect(sessions.opened).to.have.lengthOf(1)
    await store.close()
    await open()
    loseFirst('openSession', 'hang')
    const controller = new AbortController()
    const first = failure(store.buckets.create('pets', { signal: controller.signal }))
    await until(() => count('openSession') === 1)
    const second = store.buckets.create('cars')
    controller.abort()
    expect((await first).code).to.equal('CANCELLED')
    await second
    expect(sessions.opened).to.have.lengthOf(1)
    expect(sessions.done).to.deep.equal(['createBucket'])
  })

  it('has no more calls unanswered than the cluster allows, and says which answers may be forgotten', async () => {
    sessions.callsMax = 4
    await Promise.all(Array.from({ length: 40 }, (_, at) => store.buckets.create(`bucket-${at}`)))
    expect(sessions.done).to.have.lengthOf(40)
    expect(sessions.kept).to.be.at.most(4)
  })

  it('stays usable while one call waits long: those that wait for room are let go by their signal', async () => {
    sessions.callsMax = 2
    cluster.meta.before = (request) => (request.createBucket?.name === 'slow' ? 'hang' : undefined)
    const slow = failure(store.buckets.create('slow', { timeoutMs: 4000 }))
    await until(() => count('createBucket') === 1)
    await store.buckets.create('fast')
    const waiting = await failure(store.buckets.create('waits', { timeoutMs: 100 }))
    expect(waiting.code).to.equal('TIMEOUT')
    await slow
    await store.buckets.create('later')
    expect(sessions.done).to.deep.equal(['createBucket', 'createBucket'])
  })
})

describe('numbers of a session', () => {
  const { signal } = new AbortController()

  it('go up, never twice, and no further than the window', async () => {
    const calls = new CallWindow(2)
    expect([await calls.take(signal), await calls.take(signal)]).to.deep.equal([1, 2])
    let third = 0
    const taking = calls.take(signal).then((sequence) => (third = sequence))
    calls.settle(2)
    await Promise.resolve()
    expect([third, calls.lowest], 'the first one still waits').to.deep.equal([0, 1])
    calls.settle(1)
    expect(await taking).to.equal(3)
    expect(calls.lowest).to.equal(3)
  })
})
