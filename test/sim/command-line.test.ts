/** The simulator's command line: what is wrong in it is a usage error, not a run of something else; failures repeat. */

import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect } from 'chai'
import { shrink } from '../../tools/sim-shrink.ts'
import type { Ended, Task } from '../../tools/sim-tasks.ts'

const script = resolve(import.meta.dirname, '../../tools/sim.js')

function runSim(...args: string[]): { code: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...args], { encoding: 'utf8' })
  return { code: status, stdout, stderr }
}

describe('sim command line', function () {
  this.timeout(60_000)

  it('prints its usage', () => {
    const { code, stdout } = runSim('--help')
    expect(code).to.equal(0)
    expect(stdout).to.match(/^usage: [^]*--seed N/)
  })

  it('ends usage errors with 2 and one line', () => {
    for (const args of [
      ['--seed', 'abc'],
      ['--swarm', '1.5'],
      ['--workers', '0'],
      ['--faults', 'rain'],
      ['--level', 'disk'],
      ['--storage', 'tape'],
      ['--replay', '/nowhere/scenario.json'],
      ['--sed', '1'],
    ]) {
      const { code, stdout, stderr } = runSim(...args)
      expect(code, args.join(' ')).to.equal(2)
      expect(stderr).to.match(/^sim: [^\n]*\n$/)
      expect(stdout).to.equal('')
    }
  })

  it('runs a swarm at both levels, tells what it did, and gives a seed the same hash again', () => {
    const swarm = runSim('--swarm', '8', '--chaos', '1000', '--verbose', '--workers', '2')
    expect(swarm.code, swarm.stdout).to.equal(0)
    expect(swarm.stdout).to.match(/^raft: 8 runs, \d+ events, \d+ events\/s on one core/m)
    expect(swarm.stdout).to.match(/^cluster: 1 runs, \d+ events/m)
    const hash = /^cluster seed 8: .* hash ([0-9a-f]{8});/m.exec(swarm.stdout)?.[1]
    const single = runSim('--seed', '8', '--chaos', '1000')
    expect(single.stdout).to.contain(`hash ${hash};`)
  })

  it('traces a run up to a moment', () => {
    const { code, stdout } = runSim('--seed', '3', '--until', '700', '--trace')
    expect(code).to.equal(0)
    const times = [...stdout.matchAll(/^ +(\d+\.\d{3}) {2}/gm)].map((match) => Number(match[1]))
    expect(times.length).to.be.greaterThan(10)
    expect(Math.max(...times)).to.be.at.most(701)
  })

  it('replays a scenario file', () => {
    const directory = mkdtempSync(join(tmpdir(), 'holdfast-sim-'))
    try {
      const path = join(directory, 'calm.json')
      writeFileSync(path, JSON.stringify({ seed: 5, untilUs: 500_000 }))
      const { code, stdout } = runSim('--replay', path)
      expect(code, stdout).to.equal(0)
      expect(stdout).to.match(/^raft seed 5: /)
    } finally {
      rmSync(directory, { recursive: true })
    }
  })
})

describe('sim: shrinking', () => {
  const failed: Task = { level: 'cluster', seed: 7, chaosMs: 8000, trace: true, twice: false }
  const drawn = { faults: ['rot', 'pause', 'split', 'clock'], clients: 5, storage: 'real' } as const

  it('leaves what the failure needs and nothing else', async () => {
    const run = (task: Task): Promise<Ended> => {
      const fails = task.faults?.includes('split') === true && task.chaosMs >= 1500 && (task.clients ?? 0) >= 2
      return Promise.resolve(
        fails ? { kind: 'failed', reason: 'broken at 17' } : { kind: 'passed', line: '', events: 1, level: 'cluster' },
      )
    }
    const { task, reason, runs } = await shrink(failed, drawn, 'broken at 3', run, 100)
    expect(task.faults).to.deep.equal(['split'])
    expect(task.chaosMs).to.be.within(1500, 1750)
    expect(task.clients).to.equal(2)
    expect(task.storage).to.equal('model')
    expect(reason).to.equal('broken at 17')
    expect(runs).to.be.lessThan(40)
  })

  it('does not take another failure for the same', async () => {
    const run = (): Promise<Ended> => Promise.resolve({ kind: 'failed', reason: 'something else' })
    expect((await shrink(failed, drawn, 'broken', run, 100)).task.chaosMs).to.equal(8000)
  })

  it('gives the run as it was when nothing can be left out, and keeps to its budget', async () => {
    let runs = 0
    const run = (): Promise<Ended> => {
      runs++
      return Promise.resolve({ kind: 'passed', line: '', events: 1, level: 'cluster' })
    }
    const { task, reason } = await shrink(failed, drawn, 'broken', run, 3)
    expect(task.chaosMs).to.equal(8000)
    expect(task.faults).to.deep.equal(drawn.faults)
    expect(reason).to.equal('broken')
    expect(runs).to.equal(3)
  })
})
