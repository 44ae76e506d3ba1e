/**
 * docker-compose.yml for real: built, started, used through published ports, one container killed, data still read.
 * Where the machine has no container engine, the file is only checked for what can be checked without one.
 */

import { readFile } from 'node:fs/promises'
import { expect } from 'chai'
import { runCli, runCommand, until } from '../support/processes.ts'

/** `docker compose` or `docker-compose`, whichever works with a running engine. */
async function composeCommand(): Promise<readonly string[] | undefined> {
  if ((await runCommand('docker', ['info'])).code !== 0) return undefined
  if ((await runCommand('docker', ['compose', 'version'])).code === 0) return ['docker', 'compose']
  return (await runCommand('docker-compose', ['version'])).code === 0 ? ['docker-compose'] : undefined
}

const meta = '127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403'

const compose = await composeCommand()

describe('long: compose', function () {
  this.timeout(900_000)

  it('names three meta and four storage nodes in two zones, published on loopback only', async () => {
    const text = await readFile('docker-compose.yml', 'utf8')
    expect(text.match(/command: \["meta"/g)).to.have.length(3)
    expect(text.match(/command: \["storage"/g)).to.have.length(4)
    expect(new Set(text.match(/"z\d"/g))).to.have.property('size', 2)
    for (const line of text.match(/^ {6}- \d.*$/gm) ?? []) expect(line).to.match(/- 127\.0\.0\.1:(\d+):\1$/)
    expect(await readFile('deploy/Dockerfile', 'utf8')).to.match(/^USER 1000:1000$/m)
  })

  if (compose === undefined) {
    process.stdout.write('no container engine answers here: docker-compose.yml is not started\n')
    return
  }

  it('starts, stores through published ports, and reads after a container was killed', async () => {
    const [command, ...first] = compose as [string, ...string[]]
    try {
      const up = await runCommand(command, [...first, 'up', '--build', '--detach'])
      expect(up.code, up.output).to.equal(0)
      await until(
        'a bucket can be made',
        async () => (await runCli(['mb', 'compose', '--meta', meta])).code === 0,
        120_000,
      )
      await until(
        'a put is on three disks',
        async () => {
          return (await runCli(['put', process.execPath, 'compose/node', '--write', 'all', '--meta', meta])).code === 0
        },
        120_000,
      )
      expect((await runCommand(command, [...first, 'kill', 's2'])).code).to.equal(0)
      const got = await runCli(['get', 'compose/node', '-', '--range', '0-3', '--meta', meta])
      expect(got.code, got.stderr).to.equal(0)
      expect(got.stdout.slice(1, 4)).to.equal('ELF')
    } finally {
      await runCommand(command, [...first, 'down', '--volumes', '--timeout', '5'])
    }
  })
})
