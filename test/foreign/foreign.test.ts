/**
 * A stranger who has only the .proto files: a client of protobufjs and http2 alone stores and reads. (test/long has one
 * in Python, which needs packages from outside npm.)
 */

import { resolve } from 'node:path'
import { expect } from 'chai'
import { TestCluster } from '../support/cluster.ts'
import { runCommand } from '../support/processes.ts'

/** The repository: where proto/ and the scripts are, whether this runs from dist or from another build. */
const repository = process.cwd()

describe('real processes: strangers with only the .proto files', function () {
  this.timeout(90_000)
  let cluster: TestCluster

  before(async () => {
    cluster = await TestCluster.start({ meta: 1, storage: 3, zones: 3 })
  })

  after(async () => {
    await cluster?.stop()
  })

  it('a protobufjs and http2 client stores and reads a chunk and an object', async () => {
    const script = resolve(repository, 'test/foreign/client.mjs')
    const { code, output } = await runCommand(process.execPath, [
      script,
      cluster.meta[0] ?? '',
      resolve(repository, 'proto'),
      'strangers',
    ])
    expect(code, output).to.equal(0)
    expect(output).to.match(/^ok /m)
    expect(await cluster.ok(['ls', 'strangers', '--recursive'])).to.contain('from/a/stranger')
  })
})
