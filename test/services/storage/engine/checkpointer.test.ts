/** When an emptied extent is given back: at the latest a moment after, also on a disk that nobody writes to any more. */

import { expect } from 'chai'
import { ExtentRanking } from '../../../../src/core/chunk/compaction.ts'
import { Checkpointer } from '../../../../src/services/storage/engine/checkpointer.ts'
import type { ChunkIndex } from '../../../../src/services/storage/engine/chunk-index.ts'
import type { ExtentTable } from '../../../../src/services/storage/engine/extent-table.ts'
import { Ledger } from '../../../../src/services/storage/engine/ledger.ts'
import { DiskGate } from '../../../../src/services/storage/engine/types.ts'
import { ManualClock } from '../../../support/manual-clock.ts'
import { turn } from '../../../support/turns.ts'

describe('checkpointer', () => {
  it('gives an extent back that was emptied while a slow checkpoint ran, though nothing is written after it', async () => {
    const clock = new ManualClock()
    const saves: (() => void)[] = []
    const index = { saveCheckpoint: () => new Promise<void>((resolve) => saves.push(resolve)) }
    const retired: number[] = []
    const table = { has: () => true, retire: (extent: number) => retired.push(extent) }
    const checkpointer = new Checkpointer(
      {
        index: index as unknown as ChunkIndex,
        table: table as unknown as ExtentTable,
        ledger: new Ledger(0, new Map(), new ExtentRanking(1 << 20)),
        gate: new DiskGate('/disk'),
        clock,
      },
      { extent: 9, offset: 4096 },
      new Uint8Array(8),
    )
    checkpointer.emptied(1)
    clock.advance(1000)
    expect(saves).to.have.length(1)
    checkpointer.applying()
    checkpointer.applied({ extent: 9, offset: 8192 }, new Uint8Array(8), 4096)
    checkpointer.emptied(2)
    clock.advance(1000)
    saves[0]?.()
    for (let i = 0; i < 10; i++) await turn()
    expect(retired).to.deep.equal([1])
    saves[1]?.()
    for (let i = 0; i < 10; i++) await turn()
    expect(retired).to.deep.equal([1, 2])
    checkpointer.stop()
  })
})
