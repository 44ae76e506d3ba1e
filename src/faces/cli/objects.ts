/**
 * `put`, `get`, `ls`, `stat`, `rm`, `cp`, `mb`, `rb`: one object or one listing each; trees are in trees.ts.
 */

import type { Command } from 'commander'
import { checkedRange } from './ranges.ts'
import { StoreError } from '../../model/errors.ts'
import { quote } from '../../model/names.ts'
import { writeConcerns } from '../../model/words.ts'
import type { Body, ListEntry, PutOptions, StoredObject, WriteConcern } from '../../sdk/types.ts'
import {
  type CommonOptions,
  parseObject,
  parseTarget,
  type Run,
  runWithStore,
  suggestBucket,
  type Surroundings,
  withCommon,
} from './context.ts'
import { openSource, writeTarget } from './files.ts'
import { plural, showBytes, showName, showTime, table } from './format.ts'
import type { Progress } from './progress.ts'
import { getTree, putTree, removeTree } from './trees.ts'

export interface PutFlags extends CommonOptions {
  readonly recursive?: boolean
  readonly replicas?: string
  readonly write?: string
  readonly ifAbsent?: boolean
  readonly ifMatch?: string
  readonly type?: string
  readonly metadata?: readonly string[]
}

/** The flags of a put as options of the SDK. Throws USAGE. */
export function putOptions(flags: PutFlags): PutOptions {
  const { replicas, write } = flags
  if (replicas !== undefined && !/^[1-8]$/.test(replicas)) {
    throw new StoreError('USAGE', `--replicas ${quote(replicas)} is out of range: use 1 to 8`)
  }
  if (write !== undefined && !writeConcerns.some((concern) => concern === write)) {
    throw new StoreError('USAGE', `--write ${quote(write)} is unknown: use ${writeConcerns.join(', ')}`)
  }
  const metadata: Record<string, string> = {}
  for (const pair of flags.metadata ?? []) {
    const at = pair.indexOf('=')
    if (at < 1) throw new StoreError('USAGE', `--metadata ${quote(pair)} is not name=value`)
    metadata[pair.slice(0, at)] = pair.slice(at + 1)
  }
  return {
    replicas: replicas === undefined ? undefined : Number(replicas),
    write: write as WriteConcern | undefined,
    ifAbsent: flags.ifAbsent,
    ifMatch: flags.ifMatch,
    contentType: flags.type,
    metadata,
  }
}

/** Tells a progress line how much of one object is stored. */
export function progressOf(progress: Progress): (bytes: number) => void {
  let before = 0
  return (bytes) => {
    progress.add(bytes - before)
    before = bytes
  }
}

async function putOne(run: Run, source: string, target: string, flags: PutFlags): Promise<void> {
  const { bucket, key } = parseObject(target)
  const options = putOptions(flags)
  const file = source === '-' ? undefined : await openSource(source)
  const progress = run.progress(`put ${showName(key)}`, file?.size)
  const body: Body =
    file === undefined ? run.surroundings.stdin : file.size === undefined ? file.body() : () => file.body()
  try {
    const result = await suggestBucket(run, bucket, () =>
      run.store.put(bucket, key, body, {
        ...options,
        ...run.limits,
        size: file?.size,
        onProgress: progressOf(progress),
      }),
    )
    progress.end()
    const { size, etag, version, chunks, durable } = result
    const copies = durable === undefined ? '' : `, ${plural(chunks, 'chunk')} on at least ${durable} disks`
    run.result(
      { bucket, key, size, etag, version, chunks, durable },
      `${bucket}/${showName(key)}  ${showBytes(size)}  etag ${etag}  version ${version}${copies}`,
    )
  } finally {
    progress.end()
    await file?.close()
  }
}

async function* shown(object: StoredObject, progress: Progress): AsyncGenerator<Uint8Array, void, void> {
  for await (const piece of object.stream()) {
    yield piece
    progress.add(piece.length)
  }
}

async function getOne(run: Run, source: string, target: string, range: string | undefined): Promise<void> {
  const { bucket, key } = parseObject(source)
  if (run.json && target === '-') throw new StoreError('USAGE', '--json and "-" both want stdout: name a file')
  const wanted = range === undefined ? undefined : checkedRange(range)
  const object = await suggestBucket(run, bucket, () => run.store.get(bucket, key, { ...run.limits, range: wanted }))
  const progress = run.progress(`get ${showName(key)}`, object.length)
  try {
    if (target === '-') {
      for await (const piece of shown(object, progress)) await run.surroundings.writeOut(piece)
      return
    }
    await writeTarget(target, shown(object, progress))
    progress.end()
    const { size, etag, version, length } = object
    run.result(
      { bucket, key, size, etag, version, bytes: length, file: target },
      `${target}  ${showBytes(length)}  etag ${etag}  version ${version}`,
    )
  } finally {
    progress.end()
  }
}

async function listBuckets(run: Run): Promise<void> {
  const buckets = await run.store.buckets.list(run.limits)
  const rows = buckets.map((bucket) => [
    bucket.name,
    String(bucket.objects),
    showBytes(bucket.bytes),
    showTime(bucket.createdMs),
  ])
  const text = table(['BUCKET', 'OBJECTS', 'SIZE', 'CREATED'], rows, ['OBJECTS', 'SIZE'])
  run.result(buckets, rows.length === 0 ? 'no buckets: make one with "holdfast mb NAME"' : text)
}

const listRows = 200

/** Prints a listing as it comes in, so that millions of entries need no memory. */
async function listObjects(run: Run, target: string, recursive: boolean): Promise<void> {
  const { bucket, key: prefix } = parseTarget(target)
  const entries = run.store.list(bucket, { ...run.limits, prefix, delimiter: recursive ? undefined : '/' })
  await suggestBucket(run, bucket, async () => {
    if (run.json) await printJsonList(run, entries)
    else await printList(run, entries)
  })
}

async function printJsonList(run: Run, entries: AsyncIterable<ListEntry>): Promise<void> {
  let separator = '['
  for await (const entry of entries) {
    await run.surroundings.writeOut(Buffer.from(`${separator}${JSON.stringify(entry)}`))
    separator = ',\n'
  }
  run.print(separator === '[' ? '[]' : ']')
}

async function printList(run: Run, entries: AsyncIterable<ListEntry>): Promise<void> {
  let rows: string[][] = []
  const flush = async (): Promise<void> => {
    if (rows.length > 0)
      await run.surroundings.writeOut(
        Buffer.from(`${table(['SIZE', 'MODIFIED', 'NAME'], rows, ['SIZE']).split('\n').slice(1).join('\n')}\n`),
      )
    rows = []
  }
  for await (const entry of entries) {
    if (entry.isPrefix) rows.push(['', '', showName(entry.key)])
    else rows.push([showBytes(entry.size).padStart(10), showTime(entry.modifiedMs), showName(entry.key)])
    if (rows.length >= listRows) await flush()
  }
  await flush()
}

async function statOne(run: Run, target: string): Promise<void> {
  const { bucket, key } = parseObject(target)
  const object = await suggestBucket(run, bucket, () => run.store.stat(bucket, key, run.limits))
  const facts = [
    ['object', `${bucket}/${showName(key)}`],
    ['size', `${showBytes(object.size)} (${object.size} bytes)`],
    ['etag', object.etag],
    ['version', String(object.version)],
    ['modified', `${showTime(object.modifiedMs)} UTC`],
    ['type', showName(object.contentType)],
    ...Object.entries(object.metadata).map(([name, value]) => [`meta ${showName(name)}`, showName(value)]),
  ]
  const chunks = object.chunks.map((chunk) => [
    chunk.id,
    showBytes(chunk.size),
    chunk.replicas.map(({ node, state }) => (state === 'current' ? node : `${node} (${state})`)).join(', '),
  ])
  const text = table([], facts)
  run.result(
    object,
    chunks.length === 0 ? text : `${text}\n\n${table(['CHUNK', 'SIZE', 'REPLICAS'], chunks, ['SIZE'])}`,
  )
}

function addPutAndGet(program: Command, surroundings: Surroundings): void {
  withCommon(program.command('put <source> <target>'))
    .description('store a file (or - for stdin) as bucket/name; -r: a directory as bucket/prefix')
    .option('-r, --recursive', 'store a whole directory')
    .option('--replicas <n>', 'copies of each chunk, 1 to 8 (default: 3)')
    .option('--write <concern>', 'acknowledge when all, quorum or one copy is on disk (default: quorum)')
    .option('--if-absent', 'only when there is no such object')
    .option('--if-match <etag>', 'only when the object has this etag or version')
    .option('--type <mime>', 'content type')
    .option('--metadata <name=value...>', 'metadata of your own')
    .action((source: string, target: string, flags: PutFlags) =>
      runWithStore(surroundings, flags, (run) =>
        flags.recursive === true ? putTree(run, source, target, putOptions(flags)) : putOne(run, source, target, flags),
      ),
    )
  withCommon(program.command('get <source> <target>'))
    .description('read bucket/name into a file (or - for stdout), verified; -r: bucket/prefix into a directory')
    .option('-r, --recursive', 'read a whole prefix')
    .option('--range <a-b>', 'bytes a to b, both included; "a-" to the end')
    .action((source: string, target: string, flags: CommonOptions & { recursive?: boolean; range?: string }) =>
      runWithStore(surroundings, flags, async (run) => {
        if (flags.recursive !== true) return getOne(run, source, target, flags.range)
        if (flags.range !== undefined) throw new StoreError('USAGE', '--range and -r cannot be used together')
        return getTree(run, source, target)
      }),
    )
}

/** Adds the commands on objects and buckets. */
export function addObjectCommands(program: Command, surroundings: Surroundings): void {
  addPutAndGet(program, surroundings)
  withCommon(program.command('ls [target]'))
    .description('list buckets, or the objects of bucket[/prefix]')
    .option('--recursive', 'list everything below instead of folding at "/"')
    .action((target: string | undefined, flags: CommonOptions & { recursive?: boolean }) =>
      runWithStore(surroundings, flags, (run) =>
        target === undefined ? listBuckets(run) : listObjects(run, target, flags.recursive === true),
      ),
    )
  withCommon(program.command('stat <target>'))
    .description('show one object, its chunks and where their copies are')
    .action((target: string, flags: CommonOptions) => runWithStore(surroundings, flags, (run) => statOne(run, target)))
  withCommon(program.command('rm <target>'))
    .description('remove one object; -r: everything below bucket/prefix')
    .option('-r, --recursive', 'remove a whole prefix')
    .option('--if-match <etag>', 'only when the object has this etag or version')
    .action((target: string, flags: CommonOptions & { recursive?: boolean; ifMatch?: string }) =>
      runWithStore(surroundings, flags, async (run) => {
        if (flags.recursive === true) return removeTree(run, target)
        const { bucket, key } = parseObject(target)
        await suggestBucket(run, bucket, () => run.store.delete(bucket, key, { ...run.limits, ifMatch: flags.ifMatch }))
        run.result({ bucket, key, removed: true }, `removed ${bucket}/${showName(key)}`)
      }),
    )
  withCommon(program.command('cp <from> <to>'))
    .description('copy bucket/name to bucket/name by reference: no byte moves')
    .option('--if-absent', 'only when the target does not exist')
    .option('--if-match <etag>', 'only when the target has this etag or version')
    .action((from: string, to: string, flags: CommonOptions & { ifAbsent?: boolean; ifMatch?: string }) =>
      runWithStore(surroundings, flags, async (run) => {
        const source = parseObject(from)
        const target = parseObject(to)
        const options = { ...run.limits, ifAbsent: flags.ifAbsent, ifMatch: flags.ifMatch }
        const copied = await suggestBucket(run, source.bucket, () => run.store.copy(source, target, options))
        run.result(
          copied,
          `${target.bucket}/${showName(target.key)}  ${showBytes(copied.size)}  etag ${copied.etag}  version ${copied.version}`,
        )
      }),
    )
  withCommon(program.command('mb <bucket>'))
    .description('make a bucket')
    .action((bucket: string, flags: CommonOptions) =>
      runWithStore(surroundings, flags, async (run) => {
        const made = await run.store.buckets.create(bucket, run.limits)
        run.result(made, `made bucket ${made.name}`)
      }),
    )
  withCommon(program.command('rb <bucket>'))
    .description('remove an empty bucket')
    .action((bucket: string, flags: CommonOptions) =>
      runWithStore(surroundings, flags, async (run) => {
        await suggestBucket(run, bucket, () => run.store.buckets.delete(bucket, run.limits))
        run.result({ bucket, removed: true }, `removed bucket ${bucket}`)
      }),
    )
}
