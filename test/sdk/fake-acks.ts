/** Which acknowledgements the fake metadata leader counts, and what its status says of the disks. */

import { StoreError } from '../../src/model/errors.ts'
import type { holdfast } from '../../src/wire/messages.ts'

interface FakeDisk {
  readonly disk: number
  readonly node: string
  readonly generation: number
  readonly listening: boolean
}

/** Refuses chunks with too few acknowledgements of nodes that live, in their generation. */
export function checkAcks(
  storage: readonly FakeDisk[],
  chunks: readonly holdfast.v1.ChunkRef[],
  { copies, write }: { copies: number; write: string },
): void {
  const needed = write === 'all' ? copies : write === 'quorum' ? Math.floor(copies / 2) + 1 : 1
  const inForce = new Map(storage.filter((one) => one.listening).map((one) => [one.disk, one.generation]))
  for (const { id, replicas } of chunks) {
    const counted = replicas.filter(({ disk, generation }) => inForce.get(disk) === generation).length
    if (counted < needed) throw new StoreError('FENCED', `chunk ${id} has ${counted} acknowledgements in force`)
  }
}

/** The nodes and disks of a status. */
export function fakeStatus(storage: readonly FakeDisk[]): holdfast.v1.StatusReply.$Properties {
  const nodes = storage.map(({ node, disk, generation, listening }) => ({
    id: node,
    health: listening ? 'up' : 'down',
    mode: 'active',
    disks: [{ number: disk, state: 'ok', generation }],
  }))
  return { nodes }
}
