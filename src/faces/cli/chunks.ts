/**
 * `chunk put|get|stat|rm`: the chunk level, for systems that keep their own manifests.
 */

import type { Command } from 'commander'
import { StoreError } from '../../model/errors.ts'
import { limits } from '../../model/limits.ts'
import { type CommonOptions, type Run, runWithStore, type Surroundings, withCommon } from './context.ts'
import { openSource, writeTarget } from './files.ts'
import { showBytes, table } from './format.ts'
import { putOptions, type PutFlags } from './objects.ts'

/** Reads at most one chunk. Throws INVALID_ARGUMENT for more. */
async function readChunkFile(run: Run, source: string): Promise<Uint8Array> {
  const buffer = new Uint8Array(limits.chunkBytesMax + 1)
  let length = 0
  if (source === '-') {
    for await (const piece of run.surroundings.stdin) {
      const bytes = typeof piece === 'string' ? Buffer.from(piece) : piece
      const room = bytes.subarray(0, buffer.length - length)
      buffer.set(room, length)
      length += room.length
      if (length === buffer.length) break
    }
  } else {
    const file = await openSource(source)
    try {
      const body = file.body()
      for (let got = 1; got > 0 && length < buffer.length; length += got) got = await body.fill(buffer.subarray(length))
    } finally {
      await file.close()
    }
  }
  if (length > limits.chunkBytesMax) {
    throw new StoreError(
      'INVALID_ARGUMENT',
      `a chunk has at most ${showBytes(limits.chunkBytesMax)}: use put for larger data`,
    )
  }
  return buffer.subarray(0, length)
}

/** Adds the commands on chunks. */
export function addChunkCommands(program: Command, surroundings: Surroundings): void {
  const chunk = program.command('chunk').description('store and read single chunks of at most 8 MiB by id')
  withCommon(chunk.command('put <source>'))
    .description('store a file (or - for stdin) as one chunk; prints its id')
    .option('--replicas <n>', 'copies, 1 to 8 (default: 3)')
    .option('--write <concern>', 'acknowledge when all, quorum or one copy is on disk (default: quorum)')
    .action((source: string, flags: PutFlags) =>
      runWithStore(surroundings, flags, async (run) => {
        const { replicas, write } = putOptions(flags)
        const bytes = await readChunkFile(run, source)
        const id = await run.store.chunks.put(bytes, { ...run.limits, replicas, write })
        run.result({ id, size: bytes.length }, id)
      }),
    )
  withCommon(chunk.command('get <id> <target>'))
    .description('read a chunk into a file (or - for stdout)')
    .action((id: string, target: string, flags: CommonOptions) =>
      runWithStore(surroundings, flags, async (run) => {
        if (run.json && target === '-') throw new StoreError('USAGE', '--json and "-" both want stdout: name a file')
        const bytes = await run.store.chunks.get(id, run.limits)
        if (target === '-') return run.surroundings.writeOut(bytes)
        await writeTarget(target, onePiece(bytes))
        run.result({ id, size: bytes.length, file: target }, `${target}  ${showBytes(bytes.length)}`)
      }),
    )
  withCommon(chunk.command('stat <id>'))
    .description('show a chunk and where its copies are')
    .action((id: string, flags: CommonOptions) =>
      runWithStore(surroundings, flags, async (run) => {
        const found = await run.store.chunks.stat(id, run.limits)
        const facts = [
          ['chunk', found.id],
          ['size', showBytes(found.size)],
          ['root', found.root],
          ['copies wanted', String(found.copies)],
          ['references', String(found.references)],
          ['pinned', found.pinned ? 'yes' : 'no'],
        ]
        const rows = found.replicas.map(({ node, disk, state }) => [node, String(disk), state])
        run.result(found, `${table([], facts)}\n\n${table(['NODE', 'DISK', 'STATE'], rows)}`)
      }),
    )
  withCommon(chunk.command('rm <id>'))
    .description('drop the pin of a chunk; its space comes back later')
    .action((id: string, flags: CommonOptions) =>
      runWithStore(surroundings, flags, async (run) => {
        await run.store.chunks.rm(id, run.limits)
        run.result({ id, removed: true }, `removed chunk ${id}`)
      }),
    )
}

async function* onePiece(bytes: Uint8Array): AsyncGenerator<Uint8Array, void, void> {
  yield bytes
}
