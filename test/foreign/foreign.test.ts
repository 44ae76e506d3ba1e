/**
 * Strangers who have only the .proto files: a client of protobufjs and http2 alone, and, where the machine has it, one of
 * Python's grpcio that finds everything by reflection.
 */

import { spawn } from 'node:child_process'
import { resolve } from 'node:path'
import { expect } from 'chai'
import { TestCluster } from '../support/cluster.ts'

/** The repository: where proto/ and the scripts are, whether this runs from dist or from another build. */
const repository = process.cwd()

async function run(command: string, args: readonly string[]): Promise<{ code: number; output: string }> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  child.stdout.on('data', (piece: Buffer) => (output += piece.toString()))
  child.stderr.on('data', (piece: Buffer) => (output += piece.toString()))
  return await new Promise((done) => {
    child.once('error', () => done({ code: 127, output }))
    child.once('close', (code) => done({ code: code ?? -1, output }))
  })
}

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
    const { code, output } = await run(process.execPath, [
      script,
      cluster.meta[0] ?? '',
      resolve(repository, 'proto'),
      'strangers',
    ])
    expect(code, output).to.equal(0)
    expect(output).to.match(/^ok /m)
    expect(await cluster.ok(['ls', 'strangers', '--recursive'])).to.contain('from/a/stranger')
  })

  it('a Python grpcio client finds the services by reflection, where grpcio is installed', async () => {
    const probe = await run('python3', ['-c', 'import grpc, grpc_reflection'])
    if (probe.code !== 0) return
    const { code, output } = await run('python3', [
      resolve(repository, 'test/foreign/client.py'),
      cluster.meta[0] ?? '',
    ])
    expect(code, output).to.equal(0)
  })
})
