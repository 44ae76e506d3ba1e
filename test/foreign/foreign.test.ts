/**
 * Strangers who have only the .proto files: a client of protobufjs and http2 alone, and one of Python's grpcio that finds
 * everything by reflection. Where there is no grpcio and it cannot be installed into a directory of its own (no Python, no
 * network) the second case does not exist, and a line says so.
 */

import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect } from 'chai'
import { TestCluster } from '../support/cluster.ts'

/** The repository: where proto/ and the scripts are, whether this runs from dist or from another build. */
const repository = process.cwd()

async function run(
  command: string,
  args: readonly string[],
  timeoutMs?: number,
): Promise<{ code: number; output: string }> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], timeout: timeoutMs })
  let output = ''
  child.stdout.on('data', (piece: Buffer) => (output += piece.toString()))
  child.stderr.on('data', (piece: Buffer) => (output += piece.toString()))
  return await new Promise((done) => {
    child.once('error', () => done({ code: 127, output }))
    child.once('close', (code) => done({ code: code ?? -1, output }))
  })
}

const pipMs = 60_000

/** A Python that has grpcio: the machine's, or one of a new virtual environment in `directory`; undefined: none. */
async function findPython(directory: string): Promise<string | undefined> {
  const imports = ['-c', 'import grpc, grpc_reflection']
  if ((await run('python3', imports)).code === 0) return 'python3'
  if ((await run('python3', ['-m', 'venv', directory])).code !== 0) return undefined
  const python = join(directory, 'bin', 'python')
  const install = ['-m', 'pip', 'install', '-q', '--retries', '0', '--timeout', '5', 'grpcio', 'grpcio-reflection']
  await run(python, install, pipMs)
  return (await run(python, imports)).code === 0 ? python : undefined
}

const environment = await mkdtemp(join(tmpdir(), 'holdfast-python-'))
const python = await findPython(environment)
if (python === undefined) {
  process.stdout.write('no Python with grpcio here, and none could be installed: its case is not defined\n')
}

describe('real processes: strangers with only the .proto files', function () {
  this.timeout(90_000)
  let cluster: TestCluster

  before(async () => {
    cluster = await TestCluster.start({ meta: 1, storage: 3, zones: 3 })
  })

  after(async () => {
    await cluster?.stop()
    await rm(environment, { recursive: true, force: true })
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

  if (python !== undefined) {
    it('a Python grpcio client finds the services by reflection and asks for the status', async () => {
      const script = resolve(repository, 'test/foreign/client.py')
      const { code, output } = await run(python, [script, cluster.meta[0] ?? ''])
      expect(code, output).to.equal(0)
      expect(output).to.match(/^ok /m)
    })
  }
})
