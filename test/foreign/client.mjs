/**
 * A stranger: stores and reads a chunk and an object with the .proto files alone.
 *
 * Uses protobufjs to read proto/holdfast/v1/*.proto, Node's own http2 to speak gRPC, and not one line of Holdfast. What it
 * does is what a client in any language does: ask meta for a lease and a place, give the bytes to three storage nodes
 * (without sums: the nodes compute them), commit, and read back.
 *
 * Usage: node client.mjs META_ADDRESS PROTO_DIRECTORY BUCKET. Prints `ok` at the end.
 */

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import http2 from 'node:http2'
import protobuf from 'protobufjs'

const [metaAddress, protoDirectory, bucket] = process.argv.slice(2)
const root = new protobuf.Root()
root.resolvePath = (_origin, target) => `${protoDirectory}/${target}`
await root.load(['common', 'meta', 'storage', 'node', 'raft'].map((name) => `holdfast/v1/${name}.proto`))

/** One unary gRPC call: length-prefixed message over HTTP/2. */
function call(address, service, method, request) {
  const type = root.lookupService(`holdfast.v1.${service}`).methods[method]
  type.resolve()
  const body = type.resolvedRequestType.encode(type.resolvedRequestType.fromObject(request)).finish()
  const frame = Buffer.alloc(5 + body.length)
  frame.writeUInt32BE(body.length, 1)
  frame.set(body, 5)
  return new Promise((resolve, reject) => {
    const session = http2.connect(`http://${address}`)
    session.on('error', reject)
    const stream = session.request({
      ':method': 'POST',
      ':path': `/holdfast.v1.${service}/${method}`,
      'content-type': 'application/grpc+proto',
      te: 'trailers',
    })
    const pieces = []
    let status
    const seen = (headers) => {
      if (headers['grpc-status'] !== undefined) status = headers
    }
    stream.on('response', seen)
    stream.on('trailers', seen)
    stream.on('data', (piece) => pieces.push(piece))
    stream.on('error', reject)
    stream.on('end', () => {
      session.close()
      if (status?.['grpc-status'] !== '0') {
        const error = new Error(
          `${method}: ${status?.['grpc-status']} ${decodeURIComponent(status?.['grpc-message'] ?? '')}`,
        )
        const detail = status?.['holdfast-error-bin']
        if (detail !== undefined) {
          error.detail = root.lookupType('holdfast.v1.ErrorDetail').decode(Buffer.from(detail, 'base64'))
        }
        reject(error)
        return
      }
      const bytes = Buffer.concat(pieces)
      const reply = type.resolvedResponseType.decode(bytes.subarray(5, 5 + bytes.readUInt32BE(1)))
      resolve(type.resolvedResponseType.toObject(reply, { longs: Number, bytes: Buffer, defaults: true, arrays: true }))
    })
    stream.end(frame)
  })
}

let leader = metaAddress

/** Asks meta; follows the leader it names. */
async function meta(method, request) {
  for (let tries = 0; ; tries++) {
    try {
      return await call(leader, 'Meta', method, request)
    } catch (error) {
      const next = error.detail?.leader?.[0]
      if (next === undefined || tries > 5) throw error
      leader = next
    }
  }
}

/** Gives one chunk to every disk of its placement; resolves to what a commit wants to know of it. */
async function putChunk(lease, id, bytes) {
  const placed = await meta('Place', { chunks: 1, copies: 3, chunkBytes: bytes.length })
  const replicas = []
  let chunkRoot
  for (const disk of placed.placements[0].disks) {
    const address = placed.disks.find((candidate) => candidate.disk === disk).addresses[0]
    const begin = { id, length: bytes.length, disk, lease }
    const done = await call(address, 'Storage', 'PutChunk', { begin, data: bytes })
    assert.equal(done.id, id)
    chunkRoot ??= done.root
    assert.deepEqual(done.root, chunkRoot, 'all nodes compute the same root')
    replicas.push({ disk: done.disk, generation: done.generation })
  }
  return { id, length: bytes.length, root: chunkRoot, replicas }
}

async function getChunk(ref, disks) {
  const replica = ref.replicas.find((candidate) => candidate.state === 'current')
  const address = disks.find((candidate) => candidate.disk === replica.disk).addresses[0]
  const reply = await call(address, 'Storage', 'GetChunk', { id: ref.id, disk: replica.disk })
  assert.deepEqual(reply.begin.root, ref.root)
  return reply.data
}

const lease = await meta('GrantLease', { ttlMs: 60_000 })
assert.ok(lease.count >= 2)

// A chunk by itself.
const chunkBytes = randomBytes(300_000)
const single = await putChunk(lease.id, lease.id, chunkBytes)
const commitId = randomBytes(16).toString('hex')
await meta('CommitChunks', { commitId, lease: lease.id, chunks: [single], copies: 3, write: 'all' })
const told = await meta('StatChunk', { id: single.id })
assert.equal(told.pinned, true)
assert.deepEqual(await getChunk(told.chunk, told.disks), chunkBytes)

// An object of one chunk. The etag is the writer's: docs/formats/checksums.md says how ours is made.
await meta('CreateBucket', { name: bucket, commitId: randomBytes(16).toString('hex') })
const objectBytes = randomBytes(500_000)
const chunk = await putChunk(lease.id, lease.id + 1, objectBytes)
const put = {
  bucket,
  key: 'from/a/stranger',
  size: objectBytes.length,
  etag: process.argv[5] ?? '00112233aabbccdd',
  chunks: [chunk],
  copies: 3,
  write: 'all',
}
const committed = await meta('Commit', {
  commitId: randomBytes(16).toString('hex'),
  lease: lease.id,
  operations: [{ put }],
})
assert.equal(committed.durable, 3)
const opened = await meta('OpenObject', { bucket, key: 'from/a/stranger', withChunks: true })
assert.equal(opened.object.size, objectBytes.length)
assert.deepEqual(await getChunk(opened.first.chunks[0], opened.first.disks), objectBytes)

process.stdout.write(`ok ${single.id} ${objectBytes.length}\n`)
