/**
 * The invariants of the metadata state, checked the slow way: everything derived is counted again from the records it
 * derives from. Throws on the first that does not hold.
 */

import { expect } from 'chai'
import { decode } from '../../../src/base/schema.ts'
import { getU32, toHex } from '../../../src/base/bytes.ts'
import { isHeld, shortClass } from '../../../src/core/meta/chunks.ts'
import { hasManifest } from '../../../src/core/meta/manifests.ts'
import { keyParts } from '../../../src/core/meta/keys.ts'
import {
  bucketRecord,
  type ChunkRecord,
  chunkRecord,
  diskChunkRecord,
  leaseRecord,
  manifestRecord,
  objectRecord,
  pageRecord,
} from '../../../src/core/meta/records.ts'
import type { World } from './world.ts'

interface Entry {
  readonly key: Uint8Array
  readonly value: Uint8Array
}

function entriesOf(world: World, letter: string): Entry[] {
  const out: Entry[] = []
  for (const [name, value] of world.map) {
    if (name.startsWith(letter)) out.push({ key: Uint8Array.from(name, (c) => c.charCodeAt(0)), value })
  }
  return out
}

/** Every chunk record by id. */
export function chunksOf(world: World): Map<number, ChunkRecord> {
  return new Map(entriesOf(world, 'c').map(({ key, value }) => [keyParts.chunk(key), decode(chunkRecord, value)]))
}

export function checkInvariants(world: World): void {
  const chunks = chunksOf(world)
  checkReferences(world, chunks)
  checkMirrors(world, chunks)
  checkQueues(world, chunks)
  checkManifests(world)
  checkTotals(world, chunks)
}

function checkReferences(world: World, chunks: Map<number, ChunkRecord>): void {
  const counted = new Map<number, number>()
  for (const { value } of entriesOf(world, 'p')) {
    for (const { id } of decode(pageRecord, value)) counted.set(id, (counted.get(id) ?? 0) + 1)
  }
  for (const [id, chunk] of chunks) expect(chunk.references, `references of ${id}`).to.equal(counted.get(id) ?? 0)
  for (const id of counted.keys()) expect(chunks.has(id), `chunk ${id} of a page`).to.equal(true)
}

function checkMirrors(world: World, chunks: Map<number, ChunkRecord>): void {
  const wanted = new Map<string, unknown>()
  for (const [id, { copies, replicas }] of chunks) {
    for (const { disk } of replicas) wanted.set(`${disk}/${id}`, { copies, replicas })
  }
  const found = new Map<string, unknown>()
  for (const { key, value } of entriesOf(world, 'd')) {
    const { disk, chunk } = keyParts.diskChunk(key)
    found.set(`${disk}/${chunk}`, decode(diskChunkRecord, value))
  }
  expect(found).to.deep.equal(wanted)
}

function checkQueues(world: World, chunks: Map<number, ChunkRecord>): void {
  const short = new Set<string>()
  const garbage = new Set<string>()
  for (const [id, chunk] of chunks) {
    const index = shortClass(chunk)
    if (isHeld(chunk)) {
      if (index !== undefined) short.add(`${index}/${id}`)
      const ordered = chunk.replicas.length > 0 && chunk.replicas.every((replica) => replica.state === 'deleting')
      expect(ordered, `chunk ${id} that is held is ordered away`).to.equal(false)
    } else if (chunk.replicas.some((replica) => replica.state !== 'deleting')) {
      garbage.add(`${chunk.garbageMs}/${id}`)
    } else {
      expect(chunk.replicas.length, `chunk ${id} that nothing is left of`).to.be.greaterThan(0)
    }
  }
  const shortFound = entriesOf(world, 's').map(({ key }) => keyParts.short(key))
  expect(new Set(shortFound.map((one) => `${one.classIndex}/${one.chunk}`))).to.deep.equal(short)
  const garbageFound = entriesOf(world, 'g').map(({ key }) => keyParts.garbage(key))
  expect(new Set(garbageFound.map((one) => `${one.sinceMs}/${one.chunk}`))).to.deep.equal(garbage)
}

function checkManifests(world: World): void {
  const named = new Map<string, number>()
  for (const { value } of entriesOf(world, 'o')) {
    const object = decode(objectRecord, value)
    if (!hasManifest(object)) continue
    const { manifest } = object
    named.set(manifest, (named.get(manifest) ?? 0) + 1)
  }
  const uploads = new Map<number, number>()
  const dropping = new Set<string>()
  for (const { key, value } of entriesOf(world, 'm')) {
    const id = toHex(key.subarray(1))
    const manifest = decode(manifestRecord, value)
    expect(manifest.references, `references of manifest ${id}`).to.equal(named.get(id) ?? 0)
    expect(manifest.state === 'committed', `state of manifest ${id}`).to.equal(manifest.references > 0)
    if (manifest.state === 'staging') uploads.set(manifest.lease, (uploads.get(manifest.lease) ?? 0) + 1)
    if (manifest.state === 'dropping') dropping.add(`${manifest.trashedMs}/${id}`)
    named.delete(id)
  }
  expect([...named.keys()], 'objects without a manifest').to.deep.equal([])
  const trash = entriesOf(world, 't').map(({ key }) => keyParts.trash(key))
  expect(new Set(trash.map((one) => `${one.sinceMs}/${one.manifest}`))).to.deep.equal(dropping)
  expect(world.count('u')).to.equal([...uploads.values()].reduce((a, b) => a + b, 0))
  for (const { key, value } of entriesOf(world, 'l')) {
    expect(decode(leaseRecord, value).uploads).to.equal(uploads.get(keyParts.lease(key)) ?? 0)
  }
}

function checkTotals(world: World, chunks: Map<number, ChunkRecord>): void {
  const byBucket = new Map<number, { objects: number; bytes: number }>()
  let objects = 0
  let bytes = 0
  for (const { key, value } of entriesOf(world, 'o')) {
    const { size } = decode(objectRecord, value)
    const bucket = byBucket.get(getU32(key, 1)) ?? { objects: 0, bytes: 0 }
    byBucket.set(getU32(key, 1), { objects: bucket.objects + 1, bytes: bucket.bytes + size })
    objects++
    bytes += size
  }
  for (const { value } of entriesOf(world, 'b')) {
    const bucket = decode(bucketRecord, value)
    expect({ objects: bucket.objects, bytes: bucket.bytes }).to.deep.equal(
      byBucket.get(bucket.number) ?? { objects: 0, bytes: 0 },
    )
  }
  const applied = world.applied()
  expect({ objects: applied.objects, bytes: applied.bytes, chunks: applied.chunks }).to.deep.equal({
    objects,
    bytes,
    chunks: chunks.size,
  })
}
