/** Permits are counted, given in order, and waiting can be given up. */

import { expect } from 'chai'
import { Mutex } from '../../../src/base/async/mutex.ts'
import { Semaphore } from '../../../src/base/async/semaphore.ts'

describe('semaphore', () => {
  it('gives permits in the order asked, and small wishes do not overtake large ones', async () => {
    const semaphore = new Semaphore(3)
    const first = await semaphore.acquire(2)
    const order: string[] = []
    const large = semaphore.acquire(3).then((release) => {
      order.push('large')
      release()
    })
    const small = semaphore.acquire(1).then((release) => {
      order.push('small')
      release()
    })
    expect(semaphore.waiting).to.equal(2)
    first()
    first()
    await Promise.all([large, small])
    expect(order).to.deep.equal(['large', 'small'])
  })

  it('lets a waiter give up, and serves the ones behind it', async () => {
    const semaphore = new Semaphore(2)
    const first = await semaphore.acquire(1)
    const giving = new AbortController()
    const large = semaphore.acquire(2, giving.signal).catch((error: Error) => error.name)
    const small = semaphore.acquire(1)
    giving.abort()
    expect(await large).to.equal('AbortError')
    ;(await small)()
    first()
    ;(await semaphore.acquire(2))()
  })
})

describe('mutex', () => {
  it('runs one at a time, also after a failure', async () => {
    const mutex = new Mutex()
    let inside = 0
    const work = async (fail: boolean): Promise<void> => {
      expect(++inside).to.equal(1)
      await Promise.resolve()
      inside--
      if (fail) throw new Error('wanted')
    }
    const results = await Promise.allSettled([false, true, false].map((fail) => mutex.run(() => work(fail))))
    expect(results.map((result) => result.status)).to.deep.equal(['fulfilled', 'rejected', 'fulfilled'])
  })
})
