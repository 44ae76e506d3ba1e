/**
 * A state machine in memory for tests: applies commands one by one as their own groups, and reads records back.
 * Defaults make the common case short; every test says only what it is about.
 */

import { expect } from 'chai'
import { decode, type Schema } from '../../../src/base/schema.ts'
import { applyEntry } from '../../../src/core/meta/apply.ts'
import {
  type Command,
  type CommittedChunk,
  decodeCommand,
  type Effect,
  encodeCommand,
  type Operation,
  type Reply,
} from '../../../src/core/meta/commands.ts'
import { keys } from '../../../src/core/meta/keys.ts'
import {
  type AppliedRecord,
  bucketRecord,
  type ChunkRecord,
  chunkRecord,
  type ClusterRecord,
  clusterRecord,
  type DiskRecord,
  diskRecord,
  leaseRecord,
  manifestRecord,
  objectRecord,
  userMetadataOf,
} from '../../../src/core/meta/records.ts'
import { HotRecords, readApplied, type StateReader, StateView } from '../../../src/core/meta/view.ts'
import type { ErrorCode } from '../../../src/model/errors.ts'

type Without<T> = T extends unknown ? Omit<T, 'nowMs'> : never

/** Name of a key in the map. */
export function nameOfKey(key: Uint8Array): string {
  return String.fromCharCode(...key)
}

export const etag = new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8])
export const anyCondition = { ifAbsent: false, ifMatch: '' }

/** 32 hex digits from a small number. */
export function id(number: number): string {
  return number.toString(16).padStart(32, '0')
}

/** A root that depends on the chunk's id. */
export function rootOf(chunk: number): Uint8Array {
  const out = new Uint8Array(8)
  new DataView(out.buffer).setFloat64(0, chunk)
  return out
}

export class World implements StateReader {
  readonly map = new Map<string, Uint8Array>()
  nowMs = 1_000_000
  effects: readonly Effect[] = []
  /** Records that the last group wrote. */
  written = 0
  /** Every command as the log would hold it, with its answer. */
  readonly log: { readonly payload: Uint8Array; readonly reply: Reply }[] = []
  #index = 0
  readonly #hot = new HotRecords()

  /** A founded cluster with `disks` disks on nodes n1, n2, ... and bucket `photos`. */
  static founded(disks = 4, version = 1): World {
    const world = new World()
    world.ok({ kind: 'found', clusterId: id(0xc1), version })
    for (let i = 1; i <= disks; i++) world.register(`n${i}`, [id(0xd0 + i)])
    world.ok({ kind: 'createBucket', name: 'photos', commitId: id(0xb1) })
    return world
  }

  getSync(key: Uint8Array): Uint8Array | undefined {
    return this.map.get(nameOfKey(key))
  }

  get index(): number {
    return this.#index
  }

  applied(): AppliedRecord {
    return readApplied(this)
  }

  /** Applies one command (through its encoding) as a group of its own. */
  run(body: Without<Command>): Reply {
    return this.runGroup([body])[0] as Reply
  }

  /** Applies commands as one group. */
  runGroup(bodies: readonly Without<Command>[]): Reply[] {
    const view = new StateView(this, this.applied(), this.#hot)
    const replies: Reply[] = []
    for (const body of bodies) {
      const payload = encodeCommand({ ...body, nowMs: this.nowMs } as Command)
      const { reply, effects } = applyEntry(view, { index: ++this.#index, term: 1 }, decodeCommand(payload))
      this.effects = effects
      this.log.push({ payload, reply })
      replies.push(reply)
    }
    const writes = view.finish()
    this.written = writes.length
    for (const write of writes) {
      if (write.type === 'put') this.map.set(nameOfKey(write.key), write.value)
      else this.map.delete(nameOfKey(write.key))
    }
    return replies
  }

  /** Applies a command that must be accepted. */
  ok(body: Without<Command>): Reply & { ok: true } {
    const reply = this.run(body)
    if (!reply.ok) throw new Error(`refused: ${reply.code} ${reply.message}`)
    return reply
  }

  /** Applies a command that must be refused, and that must leave everything but the index alone. */
  refused(body: Without<Command>, code: ErrorCode): string {
    const before = new Map(this.map)
    const reply = this.run(body)
    expect(reply.ok ? 'accepted' : reply.code).to.equal(code)
    before.delete('A')
    const after = new Map(this.map)
    after.delete('A')
    expect(after).to.deep.equal(before)
    return reply.ok ? '' : reply.message
  }

  register(node: string, disks: readonly string[], incarnation: string = id(1)): Reply & { ok: true } {
    return this.ok({
      kind: 'registerNode',
      node,
      addresses: [`${node}:1`],
      zone: 'z1',
      incarnation,
      disks: disks.map((disk) => ({ id: disk, state: 'ok' as const, capacityBytes: 100, usedBytes: 1 })),
    })
  }

  lease(): number {
    const reply = this.ok({ kind: 'grantLease', ttlMs: 60_000 })
    if (reply.kind !== 'lease') throw new Error('no lease')
    return reply.id
  }

  /** A chunk acknowledged by `disks` under their current generations. */
  acked(chunk: number, disks: readonly number[], copying: readonly number[] = []): CommittedChunk {
    return {
      id: chunk,
      length: 10,
      root: rootOf(chunk),
      acks: disks.map((disk) => ({ disk, generation: this.disk(disk).generation })),
      copying,
    }
  }

  put(
    key: string,
    chunks: readonly CommittedChunk[],
    more: Partial<Extract<Operation, { kind: 'put' }>> = {},
  ): Operation {
    return {
      kind: 'put',
      bucket: 'photos',
      key,
      size: chunks.length * 10,
      etag,
      chunks,
      stagedPages: 0,
      copies: 3,
      concern: 'quorum',
      contentType: 'image/png',
      metadata: userMetadataOf([]),
      condition: anyCondition,
      ...more,
    }
  }

  get<T>(key: Uint8Array, schema: Schema<T>): T | undefined {
    const value = this.getSync(key)
    return value === undefined ? undefined : decode(schema, value)
  }

  has(key: Uint8Array): boolean {
    return this.map.has(nameOfKey(key))
  }

  chunk(chunk: number): ChunkRecord {
    const record = this.get(keys.chunk(chunk), chunkRecord)
    if (record === undefined) throw new Error(`no chunk ${chunk}`)
    return record
  }

  states(chunk: number): string {
    return this.chunk(chunk)
      .replicas.map((replica) => `${replica.disk}:${replica.state}`)
      .join(' ')
  }

  disk(number: number): DiskRecord {
    const record = this.get(keys.disk(number), diskRecord)
    if (record === undefined) throw new Error(`no disk ${number}`)
    return record
  }

  object(key: string) {
    const bucket = this.get(keys.bucket('photos'), bucketRecord)
    return this.get(keys.object(bucket?.number ?? 0, key), objectRecord)
  }

  cluster(): ClusterRecord {
    const record = this.get(keys.cluster(), clusterRecord)
    if (record === undefined) throw new Error('no cluster')
    return record
  }

  bucket() {
    return this.get(keys.bucket('photos'), bucketRecord)
  }

  manifest(manifest: string) {
    return this.get(keys.manifest(manifest), manifestRecord)
  }

  leaseRecord(lease: number) {
    return this.get(keys.lease(lease), leaseRecord)
  }

  /** Keys below one prefix letter. */
  count(letter: string): number {
    return [...this.map.keys()].filter((key) => key.startsWith(letter)).length
  }
}
