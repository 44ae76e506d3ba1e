/** The simulator's command line: what is wrong in it is a usage error, not a run of something else. */

import { spawnSync } from 'node:child_process'
import { resolve } from 'node:path'
import { expect } from 'chai'

const script = resolve(import.meta.dirname, '../../tools/sim.js')

function runSim(...args: string[]): { code: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...args], { encoding: 'utf8' })
  return { code: status, stdout, stderr }
}

describe('sim command line', () => {
  it('prints its usage', () => {
    const { code, stdout } = runSim('--help')
    expect(code).to.equal(0)
    expect(stdout).to.match(/^usage: [^]*--seed N/)
  }).timeout(20_000)

  it('ends usage errors with 2 and one line', () => {
    for (const args of [
      ['--seed', 'abc'],
      ['--swarm', '1.5'],
      ['--jobs', '0'],
      ['--faults', 'rain'],
      ['--sed', '1'],
    ]) {
      const { code, stdout, stderr } = runSim(...args)
      expect(code, args.join(' ')).to.equal(2)
      expect(stderr).to.match(/^sim: [^\n]*\n$/)
      expect(stdout).to.equal('')
    }
  }).timeout(30_000)
})
