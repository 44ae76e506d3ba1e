/** The simulated world keeps what the ports promise and takes away what they do not. */

import { expect } from 'chai'
import { SimProcess, simClock, World } from '../../src/sim/clock.ts'
import { SimNet } from '../../src/sim/net.ts'
import { bytesOf, keyOf, type Tree, treeDelete, treeGet, treePut, treeScan } from '../../src/sim/ordered-map.ts'
import { Seeded } from '../../src/sim/seed.ts'
import { metaMethods } from '../../src/wire/methods.ts'
import { turns } from '../../tools/turns.ts'

const noFaults = { delayMinMs: 1, delayMeanMs: 1, lossRate: 0, duplicateRate: 0 }

function ignore(): void {}

function living(id: string): SimProcess {
  const process = new SimProcess(id)
  process.alive = true
  return process
}

async function until<T>(world: World, promise: Promise<T>): Promise<T> {
  let settled = false
  promise.then(
    () => (settled = true),
    () => (settled = true),
  )
  await world.run(world.nowMs + 60_000, ignore, () => settled)
  return await promise
}

describe('sim: time', () => {
  it('ends a run in which events follow each other and time does not go on', async () => {
    const world = new World({ turns })
    const again = (): void => {
      world.after(0, 'again', undefined, again)
    }
    again()
    const failure: unknown = await world.run(10, ignore).catch((error: unknown) => error)
    expect(String(failure)).to.match(/time stands still at 0 ms.*"again"/)
  })

  it('lets a clock run slow without ever going back', async () => {
    const world = new World({ turns })
    const process = living('slow')
    const clock = simClock(world, process)
    await world.run(1000, ignore)
    expect(clock.monotonicMs()).to.equal(1000)
    process.setRate(world.nowMs, 0.25)
    expect(clock.monotonicMs()).to.equal(1000)
    let firedMs = 0
    clock.after(100, () => {
      firedMs = world.nowMs
    })
    await world.run(2000, ignore)
    expect(firedMs).to.equal(1400)
    expect(clock.monotonicMs()).to.equal(1250)
    process.setRate(world.nowMs, 1)
    await world.run(2500, ignore)
    expect(clock.monotonicMs()).to.equal(1750)
  })
})

describe('sim: ordered map', () => {
  it('behaves like a sorted map over random puts and deletes, and never changes an old version', () => {
    const random = new Seeded(7)
    const model = new Map<string, Uint8Array>()
    let tree: Tree
    for (let i = 0; i < 3000; i++) {
      const key = keyOf(random.bytes(1 + random.below(2)))
      if (random.chance(0.6)) {
        const value = random.bytes(2)
        model.set(key, value)
        tree = treePut(tree, key, value)
      } else {
        model.delete(key)
        tree = treeDelete(tree, key)
      }
    }
    const sorted = [...model.keys()].sort()
    expect([...treeScan(tree, undefined, undefined, false)].map((entry) => entry.key)).to.deep.equal(sorted)
    expect([...treeScan(tree, undefined, undefined, true)].map((entry) => entry.key)).to.deep.equal(sorted.reverse())
    const low = keyOf(new Uint8Array([64]))
    const high = keyOf(new Uint8Array([128]))
    const inside = sorted.filter((key) => key >= low && key < high).sort()
    expect([...treeScan(tree, low, high, false)].map((entry) => entry.key)).to.deep.equal(inside)
    const old = tree
    tree = treePut(tree, 'zz', new Uint8Array(1))
    expect(treeGet(old, 'zz')).to.equal(undefined)
    expect(bytesOf(keyOf(new Uint8Array([0, 255, 7])))).to.deep.equal(new Uint8Array([0, 255, 7]))
  })
})

describe('sim: clock and processes', () => {
  it('runs events in order of time, then of making', async () => {
    const world = new World({ turns })
    const seen: string[] = []
    world.after(2, 'b', undefined, () => seen.push('b'))
    world.after(1, 'a', undefined, () => seen.push('a'))
    world.after(2, 'c', undefined, () => seen.push('c'))
    await world.run(10, ignore)
    expect(seen).to.deep.equal(['a', 'b', 'c'])
  })

  it('forgets the timers of a crashed process and holds back those of a paused one', async () => {
    const world = new World({ turns })
    const process = living('p')
    const clock = simClock(world, process)
    const seen: string[] = []
    clock.after(5, () => seen.push('first'))
    process.paused = true
    await world.run(10, ignore)
    expect(seen).to.deep.equal([])
    world.resume(process)
    await world.run(11, ignore)
    expect(seen).to.deep.equal(['first'])
    clock.after(5, () => seen.push('lost'))
    process.incarnation++
    await world.run(30, ignore)
    expect(seen).to.deep.equal(['first'])
  })
})

describe('sim: network', () => {
  function setup(seed = 1): { world: World; net: SimNet; client: SimProcess; server: SimProcess } {
    const world = new World({ turns })
    const net = new SimNet(world, new Seeded(seed), noFaults)
    const client = living('c')
    const server = living('s')
    return { world, net, client, server }
  }

  it('carries a unary call and the error a handler throws', async () => {
    const { world, net, client, server } = setup()
    net.listen(server, ['s:1']).unary(metaMethods.manifestPage, async (request) => ({
      chunks: [{ id: request.page + 1 }],
    }))
    const port = net.client(client)
    const reply = await until(world, port.call('s:1', metaMethods.manifestPage, { page: 6 }, { timeoutMs: 100 }))
    expect(reply.chunks[0]?.id).to.equal(7)
    const refused = await until(
      world,
      port.call('x:1', metaMethods.manifestPage, {}, { timeoutMs: 100 }).catch((error: { code: string }) => error.code),
    )
    expect(refused).to.equal('UNAVAILABLE')
  })

  it('times a call out across a cut and fails it when the server crashes', async () => {
    const { world, net, client, server } = setup()
    net.listen(server, ['s:1']).unary(metaMethods.status, () => new Promise(ignore))
    const port = net.client(client)
    const crashed = port
      .call('s:1', metaMethods.status, {}, { timeoutMs: 5000 })
      .catch((error: { code: string }) => error.code)
    world.after(50, 'crash', undefined, () => net.crash(server))
    expect(await until(world, crashed)).to.equal('UNAVAILABLE')
    net.listen(server, ['s:1']).unary(metaMethods.status, () => new Promise(ignore))
    const late = port
      .call('s:1', metaMethods.status, {}, { timeoutMs: 100 })
      .catch((error: { code: string }) => error.code)
    expect(await until(world, late)).to.equal('TIMEOUT')
  })

  it('keeps the order of a stream, holds it back over a cut and breaks it after a while', async () => {
    const { world, net, client, server } = setup()
    const seen: number[] = []
    let closed: string | undefined
    net.listen(server, ['s:1']).stream(metaMethods.session, (stream) => {
      stream.onMessage((message) => seen.push(message.call))
      stream.onClose((error) => (closed = error?.code ?? 'in order'))
    })
    const stream = net.client(client).open('s:1', metaMethods.session)
    for (let call = 1; call <= 20; call++) stream.send({ call })
    await world.run(100, ignore)
    expect(seen).to.deep.equal(Array.from({ length: 20 }, (_, i) => i + 1))
    net.cut(client, server)
    stream.send({ call: 21 })
    await world.run(200, ignore)
    expect(seen).to.have.length(20)
    net.heal()
    await world.run(300, ignore)
    expect(seen).to.have.length(21)
    net.cut(client, server)
    stream.send({ call: 22 })
    await world.run(20_000, ignore)
    expect(seen).to.have.length(21)
    expect(closed).to.equal('UNAVAILABLE')
  })

  it('stops the sender of a paused receiver at the window and lets it go on', async () => {
    const { world, net, client, server } = setup()
    let received = 0
    let resume = ignore
    net.listen(server, ['s:1']).stream(metaMethods.session, (stream) => {
      stream.pause()
      resume = () => stream.resume()
      stream.onMessage(() => received++)
    })
    const stream = net.client(client).open('s:1', metaMethods.session)
    let drained = false
    stream.onDrain(() => (drained = true))
    const message = { call: 1, createBucket: { name: 'x'.repeat(200_000), commitId: '' } }
    let sent = 0
    while (stream.send(message)) sent++
    await world.run(100, ignore)
    expect(sent).to.be.lessThan(10)
    expect(received).to.equal(0)
    expect(drained).to.equal(false)
    resume()
    await world.run(300, ignore)
    expect(received).to.equal(sent + 1)
    expect(drained).to.equal(true)
  })

  it('ends a stream in order on both sides', async () => {
    const { world, net, client, server } = setup()
    const over: string[] = []
    net.listen(server, ['s:1']).stream(metaMethods.session, (stream) => {
      stream.onEnd(() => stream.end())
      stream.onClose((error) => over.push(`server ${error?.code ?? 'in order'}`))
    })
    const stream = net.client(client).open('s:1', metaMethods.session)
    stream.onClose((error) => over.push(`client ${error?.code ?? 'in order'}`))
    stream.end()
    await world.run(100, ignore)
    expect(over).to.deep.equal(['client in order', 'server in order'])
  })
})
