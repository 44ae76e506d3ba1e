/**
 * The engine over the real drivers while the system fails its calls: the first, the second, the third ... of each kind, with
 * each error and with death, until there is none left to fail. Each life begins with the disk that the one before has left:
 * it opens or says in one typed error why not, and once a life without a fault opens it, everything acknowledged is there.
 */

import { expect } from 'chai'
import { EngineRuns } from './engine-runs.ts'
import { faultyLife, type SystemFault } from './strace.ts'

/** The files of the index that LevelDB appends to. */
const indexFiles = Array.from({ length: 400 }, (_, i) => String(i + 1).padStart(6, '0')).flatMap((number) => [
  `index/${number}.log`,
  `index/${number}.ldb`,
  `index/MANIFEST-${number}`,
])

export const systemFaults: readonly SystemFault[] = [
  { call: 'fdatasync', fault: 'EIO' },
  { call: 'fdatasync', fault: 'KILL' },
  { call: 'pwrite64', fault: 'EIO' },
  { call: 'pwrite64', fault: 'ENOSPC' },
  { call: 'pwrite64', fault: 'KILL' },
  { call: 'fsync', fault: 'EIO' },
  { call: 'fsync', fault: 'KILL' },
  { call: 'rename', fault: 'EIO' },
  { call: 'rename', fault: 'KILL' },
  { call: 'fallocate', fault: 'ENOSPC', steps: 120 },
  { call: 'write', fault: 'EIO', paths: indexFiles },
  { call: 'write', fault: 'ENOSPC', paths: indexFiles },
]

/** Calls of a short life; more than any kind has. */
const callsMax = 60
/** Enough to write, delete, roll, and close. */
const stepsDefault = 12

/** What a process may end with: in order, refused with a typed error (1, 6), killed; under strace too. */
const codes = [0, 1, 6, 137, undefined]

/** `all`: every single call, not the first, second, fourth, eighth and so on. */
export async function failEach(fault: SystemFault, all: boolean): Promise<void> {
  const runs = await EngineRuns.inTemporary({ lanes: 3, ids: 30, largestBytes: 150_000, extentBytes: 1 << 20 })
  try {
    await runs.live({ seed: 1, steps: 20 })
    let fired = 0
    for (let nth = 1; nth <= callsMax; nth += all ? 1 : nth) {
      const end = await faultyLife(runs, fault, nth, fault.steps ?? stepsDefault)
      const where = `${fault.call} ${nth} ${fault.fault}: ${end.lines.slice(-3).join(' | ')} ${end.stderr}`
      expect(codes, where).to.include(end.code)
      if (!end.fired) break
      fired++
      if (fault.fault === 'EIO' && fault.call === 'fdatasync') {
        expect(end.refused.length, `${where}: somebody was told`).to.be.greaterThan(0)
      }
    }
    expect(fired, 'faults that happened').to.be.greaterThan(0)
    const last = await runs.live({ seed: 1, steps: 5 })
    expect(last.code, `${last.lines.slice(-3).join(' | ')} ${last.stderr}`).to.equal(0)
    expect(last.refused).to.deep.equal([])
  } finally {
    await runs.remove()
  }
}
