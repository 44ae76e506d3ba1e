/** `holdfast up`: a whole cluster from one command, gone with it, found again by the next one. */

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { freePort, type Running, runCli, spawnCli, until } from '../support/processes.ts'

interface ClusterFile {
  readonly clusterId: string
  readonly meta: readonly { readonly id: string; readonly address: string; readonly pid: number }[]
  readonly storage: readonly {
    readonly id: string
    readonly address: string
    readonly zone: string
    readonly pid: number
  }[]
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

describe('real processes: holdfast up', function () {
  this.timeout(90_000)
  let directory: string
  let running: Running | undefined

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'holdfast-up-'))
  })

  afterEach(async () => {
    running?.child.kill('SIGKILL')
    await running?.ended
  })

  after(async () => {
    await rm(directory, { recursive: true, force: true })
  })

  async function up(): Promise<{ started: Running; file: ClusterFile }> {
    const started = spawnCli(['up', '--dir', directory, '--port', String(await freePort())])
    running = started
    await until(
      'holdfast is ready',
      () => {
        if (started.child.exitCode !== null) throw new Error(started.output())
        return started.output().includes('holdfast is ready')
      },
      60_000,
    )
    return { started, file: JSON.parse(await readFile(join(directory, 'cluster.json'), 'utf8')) as ClusterFile }
  }

  it('starts seven processes in two zones, says when it is ready, and takes all of them with it', async () => {
    const { started, file } = await up()
    expect(file.meta).to.have.length(3)
    expect(file.storage).to.have.length(4)
    expect(new Set(file.storage.map((node) => node.zone)).size).to.equal(2)
    expect((await runCli(['mb', 'bucket', '--dir', directory])).code).to.equal(0)
    expect((await runCli(['put', '-', 'bucket/key', '--dir', directory], 'kept')).code).to.equal(0)
    started.child.kill('SIGINT')
    const ended = await started.ended
    expect(ended.code, ended.stderr).to.equal(0)
    for (const node of [...file.meta, ...file.storage]) expect(isAlive(node.pid), node.id).to.equal(false)
  })

  it('fails at once where there can be no directory', async () => {
    await writeFile(join(directory, 'file'), '')
    for (const dir of ['/proc/nope', join(directory, 'file', 'below')]) {
      const ended = await runCli(['up', '--dir', dir])
      expect(ended.code, ended.stderr).to.equal(1)
      expect(ended.stderr).to.match(/^holdfast: make the directory [^\n]*\n$/)
    }
    expect((await runCli(['up', '--dir', directory, '--timeout', 'soon'])).code).to.equal(2)
  })

  it('says as JSON that it is ready; status ends with 5 and names who answers once the quorum is gone', async () => {
    const dir = join(directory, 'json')
    const flags = ['--dir', dir, '--port', String(await freePort()), '--storage', '1', '--json', '--timeout', '50s']
    const started = spawnCli(['up', ...flags])
    running = started
    const line = await until(
      'a line',
      () =>
        started
          .output()
          .split('\n')
          .find((one) => one.startsWith('{')),
      60_000,
    )
    const { ready, ...cluster } = JSON.parse(line) as ClusterFile & { ready: boolean }
    expect(ready).to.equal(true)
    expect(cluster).to.deep.equal(JSON.parse(await readFile(join(dir, 'cluster.json'), 'utf8')))
    for (const node of cluster.meta.slice(1)) process.kill(node.pid, 'SIGKILL')
    const status = await until('the leader steps down', async () => {
      const startMs = performance.now()
      const ended = await runCli(['status', '--json', '--dir', dir])
      expect(performance.now() - startMs).to.be.lessThan(8000)
      return ended.code === 5 && (JSON.parse(ended.stdout) as { verdict: string; meta: { reachable: boolean }[] })
    })
    expect(status.verdict).to.equal('no quorum')
    expect(status.meta.map((node) => node.reachable)).to.deep.equal([true, false, false])
    started.child.kill('SIGINT')
    expect((await started.ended).stdout).to.equal(`${line}\n`)
  })

  it('finds the data again, says when a child dies, and its children end when it is killed', async () => {
    const { started, file } = await up()
    expect((await runCli(['get', 'bucket/key', '-', '--dir', directory])).stdout).to.equal('kept')
    const [victim] = file.storage
    process.kill(victim?.pid as number, 'SIGKILL')
    await until('up says that the child died', () => started.output().includes(victim?.id as string))
    expect((await runCli(['get', 'bucket/key', '-', '--dir', directory])).stdout).to.equal('kept')
    started.child.kill('SIGKILL')
    await started.ended
    await until('the children are gone', () => [...file.meta, ...file.storage].every((node) => !isAlive(node.pid)))
  })
})
