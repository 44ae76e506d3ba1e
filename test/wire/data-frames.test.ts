/** Data frames laid by hand are what the generated protobuf code reads and would write. */

import { expect } from 'chai'
import { storageMethods } from '../../src/wire/methods.ts'
import { v1 } from '../../src/wire/messages.ts'

const requests = [0, 1, 127, 128, 16_383, 16_384, 2 ** 32, 2 ** 53 - 1]
const lengths = [0, 1, 127, 128, 65_536, 512 * 1024]

describe('wire/data-frames', () => {
  for (const length of lengths) {
    it(`gives the bytes of protobufjs for frames of ${length} bytes`, () => {
      const data = new Uint8Array(length).map((_, index) => index % 251)
      for (const request of requests) {
        const put = storageMethods.chunks.encodeRequest({ request, putData: { data } })
        expect(Buffer.compare(put, v1.ChunkRequest.encode({ request, putData: { data } }).finish())).to.equal(0)
        const get = storageMethods.chunks.encodeReply({ request, getData: { data } })
        expect(Buffer.compare(get, v1.ChunkReply.encode({ request, getData: { data } }).finish())).to.equal(0)
        const decoded = storageMethods.chunks.decodeRequest(put)
        expect(decoded.request).to.equal(request)
        expect(Buffer.compare(decoded.putData?.data ?? new Uint8Array(1), data)).to.equal(0)
      }
    })
  }
})
