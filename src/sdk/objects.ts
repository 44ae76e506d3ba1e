/**
 * Objects: put, get, stat, delete, copy, list and atomic commits.
 *
 * A put stores its chunks first and becomes visible by one commit. The commit carries a random id, so that repeating it
 * after a lost answer does not do it twice.
 *
 * Invariant: an operation that fails with a definite outcome left nothing visible.
 */

import { fromUtf8, toHex } from '../base/bytes.ts'
import { spanOfRange } from '../core/object/range.ts'
import { asStoreError, type Outcome, StoreError } from '../model/errors.ts'
import { limits } from '../model/limits.ts'
import type { holdfast } from '../wire/messages.ts'
import { isReplayable } from './body.ts'
import { chunksOfPage, download, type DownloadDeps, type OpenedManifest } from './download.ts'
import { chunksOf, conditionOf, objectOf, present } from './entries.ts'
import type { Leases, LeaseUse } from './leases.ts'
import { checkBucket, checkedWrite, checkOperations, checkPlace, checkText } from './operations.ts'
import { abortReason, Scope } from './scope.ts'
import type {
  Body,
  CallLimits,
  ChunkEntry,
  CommitOperation,
  Conditions,
  FlatListEntry,
  FlatListOptions,
  GetOptions,
  ListEntry,
  ListOptions,
  ObjectDetails,
  PutOptions,
  PutResult,
  StoredObject,
} from './types.ts'
import { Upload, type UploadDeps } from './upload.ts'

export interface ObjectDeps {
  readonly upload: UploadDeps
  readonly download: DownloadDeps
}

/** A body that can be read again is stored at most so often when its lease or its disks were fenced. */
const putTries = 3

interface Place {
  readonly bucket: string
  readonly key: string
}

/** For messages: what may not be an object at all when a program has no types. */
function placeOf(value: Place): Place {
  const place = (value ?? {}) as Place
  checkPlace(place.bucket, place.key)
  return place
}

export class Objects {
  readonly #deps: ObjectDeps

  constructor(deps: ObjectDeps) {
    this.#deps = deps
  }

  async #within<T>(callLimits: CallLimits, doing: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const scope = new Scope(this.#deps.upload.env.clock, callLimits, doing)
    try {
      return await work(scope.signal)
    } catch (error) {
      if (scope.signal.aborted) {
        const reason = abortReason(scope.signal)
        const failure = asStoreError(error, doing)
        // Who does not answer, and why, says more than that the time is over.
        const telling = reason.code === 'TIMEOUT' && (failure.code === 'UNAVAILABLE' || failure.code === 'NO_QUORUM')
        throw failure === reason || telling
          ? failure
          : new StoreError(reason.code, reason.message, { cause: error, outcome: failure.outcome })
      }
      throw asStoreError(error, doing)
    } finally {
      scope.close()
    }
  }

  async put(bucket: string, key: string, body: Body, options: PutOptions = {}): Promise<PutResult> {
    return this.#within(options, `put ${bucket}/${key}`, async (signal) => {
      const [result] = await this.#commit([{ put: { ...options, bucket, key, body } }], signal)
      return present(result, 'objects')
    })
  }

  async commit(operations: readonly CommitOperation[], options: CallLimits = {}): Promise<(PutResult | undefined)[]> {
    return this.#within(options, 'commit', (signal) => this.#commit(operations, signal))
  }

  async copy(from: Place, to: Place, options: CallLimits & Conditions = {}): Promise<PutResult> {
    const { ifAbsent, ifMatch } = options
    return this.#within(options, 'copy', async (signal) => {
      placeOf(from)
      placeOf(to)
      const copy = { fromBucket: from.bucket, fromKey: from.key, bucket: to.bucket, key: to.key, ifAbsent, ifMatch }
      const [result] = await this.#commit([{ copy }], signal)
      return present(result, 'objects')
    })
  }

  async delete(bucket: string, key: string, options: CallLimits & Pick<Conditions, 'ifMatch'> = {}): Promise<void> {
    await this.#within(options, `delete ${bucket}/${key}`, (signal) =>
      this.#commit([{ delete: { bucket, key, ifMatch: options.ifMatch } }], signal),
    )
  }

  async #commit(operations: readonly CommitOperation[], signal: AbortSignal): Promise<(PutResult | undefined)[]> {
    checkOperations(operations)
    const replayable = operations.every((operation) => !('put' in operation) || isReplayable(operation.put.body))
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#commitOnce(operations, signal)
      } catch (error) {
        const failure = asStoreError(error, 'commit')
        if (failure.code !== 'FENCED' || failure.outcome === 'unknown' || !replayable || attempt >= putTries)
          throw failure
        this.#deps.upload.env.log.info('put starts over', { reason: failure.message, attempt })
      }
    }
  }

  async #commitOnce(operations: readonly CommitOperation[], signal: AbortSignal): Promise<(PutResult | undefined)[]> {
    const { env, leases } = this.#deps.upload
    const commitId = toHex(env.entropy.bytes(16))
    const puts = operations.filter((operation) => 'put' in operation)
    const lease = puts.length > 0 ? await openLease(leases, signal) : undefined
    const uploads = new Map<CommitOperation, Upload>()
    let committed = false
    /** Nothing can be visible before a commit is sent, and nothing is after one that was refused. */
    let outcome: Outcome = 'definite'
    let failure: StoreError | undefined
    try {
      for (const operation of puts) {
        const { put } = operation
        const upload = await Upload.run(
          this.#deps.upload,
          put.body,
          { commitId, ...checkedWrite(put), size: put.size, signal, onProgress: put.onProgress },
          present(lease, 'lease'),
        )
        uploads.set(operation, upload)
        if (operations.length > 1 && upload.content().stagedPages > 0) {
          const most = limits.pageChunksMax * this.#deps.upload.chunkBytes
          throw new StoreError(
            'INVALID_ARGUMENT',
            `an object in a commit of several has at most ${most} bytes: put ${put.key} alone`,
          )
        }
      }
      const reply = await this.#sendCommit(operations, uploads, commitId, signal, (now) => {
        outcome = now
      })
      committed = true
      return resultsOf(operations, reply)
    } catch (error) {
      failure = withOutcome(asStoreError(error, 'commit'), outcome)
      throw failure
    } finally {
      // After a commit late copies go on in the background, two seconds at most; the lease is theirs until then.
      const ends = Promise.all([...uploads.values()].map((upload) => upload.close(committed ? undefined : failure)))
      const finished = ends.then(
        () => lease?.close(!committed),
        () => lease?.close(true),
      )
      if (!committed) await finished
      else this.#deps.upload.background(finished)
    }
  }

  async #sendCommit(
    operations: readonly CommitOperation[],
    uploads: ReadonlyMap<CommitOperation, Upload>,
    commitId: string,
    signal: AbortSignal,
    tell: (outcome: Outcome) => void,
  ): Promise<holdfast.v1.CommitReply> {
    const send = async (): Promise<holdfast.v1.CommitReply> => {
      const request = {
        commitId,
        lease: [...uploads.values()][0]?.content().lease ?? 0,
        operations: operations.map((operation) => wireOperation(operation, uploads.get(operation))),
      }
      tell('unknown')
      try {
        return await this.#deps.upload.meta.call('commit', request, { signal })
      } catch (error) {
        tell(asStoreError(error, 'commit').outcome)
        throw error
      }
    }
    const all = [...uploads.values()]
    const [upload] = all
    if (upload === undefined) return send()
    return upload.retryFenced(
      all.flatMap((one) => one.named),
      send,
    )
  }

  async #open(
    place: Place,
    withChunks: boolean,
    signal: AbortSignal,
  ): Promise<{ reply: holdfast.v1.OpenObjectReply; entry: holdfast.v1.ObjectEntry }> {
    checkPlace(place.bucket, place.key)
    const reply = await this.#deps.upload.meta.call('openObject', { ...place, withChunks }, { signal })
    return { reply, entry: present(reply.object, 'object') }
  }

  async get(bucket: string, key: string, options: GetOptions = {}): Promise<StoredObject> {
    return this.#within(options, `get ${bucket}/${key}`, async (signal) => {
      const { reply, entry } = await this.#open({ bucket, key }, true, signal)
      const record = objectOf(entry, bucket)
      const span = spanOfRange(record.size, options.range)
      const opened: OpenedManifest = {
        manifest: reply.manifest,
        pages: record.size === 0 ? 0 : Math.max(1, reply.pages),
        first: chunksOfPage(reply.first),
      }
      const length = span.end - span.start
      const stream = (): AsyncGenerator<Uint8Array, void, void> => download(this.#deps.download, opened, span, options)
      const bytes = (): Promise<Uint8Array> => gatherBytes(stream(), length)
      return {
        ...record,
        metadata: { ...entry.metadata },
        length,
        stream,
        bytes,
        text: async () => {
          const text = fromUtf8(await bytes())
          if (text === undefined)
            throw new StoreError('INVALID_ARGUMENT', `get ${bucket}/${key}: the bytes are not UTF-8 text`)
          return text
        },
      }
    })
  }

  async stat(bucket: string, key: string, options: CallLimits = {}): Promise<ObjectDetails> {
    return this.#within(options, `stat ${bucket}/${key}`, async (signal) => {
      const { reply, entry } = await this.#open({ bucket, key }, true, signal)
      const chunks: ChunkEntry[] = chunksOf(reply.first)
      for (let page = 1; page < reply.pages; page++) {
        const next = await this.#deps.upload.meta.call('manifestPage', { manifest: reply.manifest, page }, { signal })
        chunks.push(...chunksOf(next))
      }
      return { ...objectOf(entry, bucket), metadata: { ...entry.metadata }, chunks }
    })
  }

  list(bucket: string, options?: FlatListOptions): AsyncGenerator<FlatListEntry, void, void>
  list(bucket: string, options: ListOptions): AsyncGenerator<ListEntry, void, void>
  async *list(bucket: string, options: ListOptions = {}): AsyncGenerator<ListEntry, void, void> {
    checkBucket(bucket)
    for (const name of ['prefix', 'after', 'delimiter'] as const) {
      if (options[name] !== undefined) checkText(options[name], name)
    }
    let after = options.after ?? ''
    for (;;) {
      const request = { bucket, prefix: options.prefix ?? '', after, delimiter: options.delimiter ?? '', limit: 0 }
      const page = await this.#within(options, `list ${bucket}`, (signal) =>
        this.#deps.upload.meta.call('listObjects', request, { signal }),
      )
      for (const entry of page.entries) {
        if (entry.isPrefix) yield { isPrefix: true, bucket, key: entry.key }
        else yield { isPrefix: false, ...objectOf(entry, bucket) }
      }
      if (page.next === '') return
      after = page.next
    }
  }
}

/** The same failure; `definite` is said of it where it is known. */
function withOutcome(error: StoreError, outcome: Outcome): StoreError {
  if (error.outcome === outcome || outcome === 'unknown') return error
  return new StoreError(error.code, error.message, { cause: error, details: error.details, outcome })
}

/** The ids of one upload; a failure here is before anything was written. */
async function openLease(leases: Leases, signal: AbortSignal): Promise<LeaseUse> {
  try {
    return await leases.open(signal)
  } catch (error) {
    throw withOutcome(asStoreError(error, 'open a writer lease'), 'definite')
  }
}

async function gatherBytes(stream: AsyncIterable<Uint8Array>, length: number): Promise<Uint8Array> {
  const out = new Uint8Array(length)
  let at = 0
  for await (const piece of stream) {
    out.set(piece, at)
    at += piece.length
  }
  return out
}

function wireOperation(
  operation: CommitOperation,
  upload: Upload | undefined,
): holdfast.v1.ObjectOperation.$Properties {
  if ('delete' in operation) {
    const { bucket, key } = operation.delete
    return { delete: { bucket, key, condition: conditionOf(operation.delete) } }
  }
  if ('copy' in operation) {
    const { fromBucket, fromKey, bucket, key } = operation.copy
    return { copy: { fromBucket, fromKey, bucket, key, condition: conditionOf(operation.copy) } }
  }
  const { bucket, key, contentType, metadata } = operation.put
  const { copies, concern } = checkedWrite(operation.put)
  const { size, etag, chunks, stagedPages } = present(upload, 'upload').content()
  return {
    put: {
      bucket,
      key,
      size,
      etag,
      chunks,
      stagedPages,
      copies,
      write: concern,
      contentType: contentType ?? '',
      metadata: { ...metadata },
      condition: conditionOf(operation.put),
    },
  }
}

function resultsOf(operations: readonly CommitOperation[], reply: holdfast.v1.CommitReply): (PutResult | undefined)[] {
  return operations.map((operation, at) => {
    if ('delete' in operation) return undefined
    const { bucket } = 'put' in operation ? operation.put : operation.copy
    const entry = objectOf(present(reply.objects[at], 'objects'), bucket)
    return 'put' in operation && entry.chunks > 0 ? { ...entry, durable: reply.durable } : entry
  })
}
