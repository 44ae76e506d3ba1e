/** User metadata passes through the state as it is encoded: the same bytes as ever, and nothing that does not fit gets in. */

import { expect } from 'chai'
import { decode, encode, list, SchemaError, struct, text } from '../../../src/base/schema.ts'
import { keys } from '../../../src/core/meta/keys.ts'
import { objectRecord, userMetadata, userMetadataOf } from '../../../src/core/meta/records.ts'
import { limits } from '../../../src/model/limits.ts'
import { id, World } from './world.ts'

const asEver = list(struct({ name: text, value: text }))
const examples = [
  [],
  [{ name: 'a', value: '' }],
  [
    { name: 'color', value: 'r\u00f6t' },
    { name: 'note', value: 'x'.repeat(1000) },
  ],
]

describe('user metadata', () => {
  it('has the bytes of its pairs and gives them back', () => {
    for (const pairs of examples) {
      const packed = userMetadataOf(pairs)
      const bytes = encode(asEver, pairs)
      expect(encode(userMetadata, packed)).to.deep.equal(bytes)
      expect(decode(userMetadata, bytes).pairs()).to.deep.equal(pairs)
      const text = pairs.map(({ name, value }) => name + value).join('')
      expect(packed.textBytes).to.equal(Buffer.byteLength(text))
    }
  })

  it('ends where its bytes end, whatever its lengths say', () => {
    const bytes = encode(asEver, examples[2] ?? [])
    for (let end = 0; end < bytes.length; end++) {
      expect(() => decode(userMetadata, bytes.subarray(0, end)), `${end} bytes`).to.throw(SchemaError)
    }
    const count = encode(struct({ count: text }), { count: '' }).fill(0x7f)
    expect(() => decode(userMetadata, count)).to.throw(SchemaError)
  })

  it('comes out of the object as it went into the command, and is bounded by its bytes', () => {
    const world = World.founded()
    const lease = world.lease()
    const metadata = userMetadataOf(examples[2] ?? [])
    const commit = (key: string, commitId: string, more: typeof metadata) =>
      ({ kind: 'commit', commitId, lease, operations: [world.put(key, [], { metadata: more })] }) as const
    world.ok(commit('cat', id(50), metadata))
    expect(world.get(keys.object(1, 'cat'), objectRecord)?.metadata.pairs()).to.deep.equal(examples[2])
    const most = userMetadataOf([{ name: 'k', value: '\u00e9'.repeat((limits.userMetadataBytesMax - 2) / 2) + '1' }])
    world.ok(commit('dog', id(51), most))
    const tooMuch = userMetadataOf([...most.pairs(), { name: 'k', value: '' }])
    expect(world.refused(commit('fox', id(52), tooMuch), 'INVALID_ARGUMENT')).to.include('8193 bytes')
  })
})
