/**
 * A stranger in Python: grpcio finds every service by reflection and asks for the status. Uses the machine's grpcio, or
 * installs it into a virtual environment of its own; where neither is possible the case does not exist, and a line says so.
 */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect } from 'chai'
import { TestCluster } from '../support/cluster.ts'
import { runCommand } from '../support/processes.ts'

const pipMs = 60_000

/** A Python that has grpcio: the machine's, or one of a new virtual environment in `directory`; undefined: none. */
async function findPython(directory: string): Promise<string | undefined> {
  const imports = ['-c', 'import grpc, grpc_reflection']
  if ((await runCommand('python3', imports)).code === 0) return 'python3'
  if ((await runCommand('python3', ['-m', 'venv', directory])).code !== 0) return undefined
  const python = join(directory, 'bin', 'python')
  const install = ['-m', 'pip', 'install', '-q', '--retries', '0', '--timeout', '5', 'grpcio', 'grpcio-reflection']
  await runCommand(python, install, pipMs)
  return (await runCommand(python, imports)).code === 0 ? python : undefined
}

const environment = await mkdtemp(join(tmpdir(), 'holdfast-python-'))
const python = await findPython(environment)
if (python === undefined) {
  process.stdout.write('no Python with grpcio here, and none could be installed: its case is not defined\n')
}

if (python !== undefined) {
  describe('long: a Python client with only the .proto files', function () {
    this.timeout(90_000)
    let cluster: TestCluster

    before(async () => {
      cluster = await TestCluster.start({ meta: 1, storage: 3, zones: 3 })
    })

    after(async () => {
      await cluster?.stop()
    })

    it('finds the services by reflection and asks for the status', async () => {
      const script = resolve(process.cwd(), 'test/foreign/client.py')
      const { code, output } = await runCommand(python, [script, cluster.meta[0] ?? ''])
      expect(code, output).to.equal(0)
      expect(output).to.match(/^ok /m)
    })
  })
}

after(async () => {
  await rm(environment, { recursive: true, force: true })
})
