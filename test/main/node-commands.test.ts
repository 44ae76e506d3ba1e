/** The commands that run nodes: one word with two uses, and what is refused before anything runs. */

import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { runCli } from '../../src/faces/cli/cli.ts'
import { addNodeCommands } from '../../src/main/node-commands.ts'
import { runRecover } from '../../src/main/recover.ts'
import { isStoreError, StoreError } from '../../src/model/errors.ts'

async function run(...args: string[]): Promise<{ code: number; out: string; err: string; connected: number }> {
  let out = ''
  let err = ''
  let connected = 0
  const code = await runCli(
    args,
    {
      connect: async () => {
        connected++
        throw new StoreError('UNAVAILABLE', 'there is no cluster in this test')
      },
      stdout: { write: (text) => (out += text) },
      stderr: { write: (text) => (err += text) },
      stdin: (async function* () {})(),
      writeOut: async () => undefined,
      onInterrupt: () => () => undefined,
    },
    { version: '1.2.3', extend: addNodeCommands },
  )
  return { code, out, err, connected }
}

describe('commands that run nodes', () => {
  let dir: string

  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'holdfast-node-commands-'))
  })

  after(() => rmSync(dir, { recursive: true, force: true }))

  it('meta shows both its uses, also when options stand before --help', async () => {
    for (const args of [
      ['meta', '--help'],
      ['meta', '--id', 'm1', '--help'],
      ['help', 'meta'],
    ]) {
      const { code, out } = await run(...args)
      expect(code, args.join(' ')).to.equal(0)
      for (const word of ['--peers', '--reserve', 'ls', 'add', 'remove', 'transfer', 'recover'])
        expect(out).to.include(word)
    }
  })

  it('meta with a word is a command on the cluster, with options of its own', async () => {
    for (const args of [['ls'], ['add', 'm4=h:1'], ['remove', 'm4'], ['transfer']]) {
      const { code, connected } = await run('meta', ...args, '--meta', 'h:1', '--timeout', '1s')
      expect([code, connected], args.join(' ')).to.deep.equal([5, 1])
    }
  })

  it('meta without one runs a node: what it needs is named', async () => {
    const { code, err } = await run('meta')
    expect(code).to.equal(2)
    expect(err).to.match(/^holdfast: id is missing: give --id M[^\n]*\n$/)
    const bad = await run('meta', '--id', 'm1', '--listen', '127.0.0.1:1', '--data', dir, '--peers', 'm2=127.0.0.1:2')
    expect([bad.code, bad.connected]).to.deep.equal([2, 0])
    expect(bad.err).to.include('is not in the list')
  })

  it('a word that meta does not know is a usage error with a suggestion', async () => {
    const { code, err } = await run('meta', 'remov', 'm3')
    expect(code).to.equal(2)
    expect(err).to.equal('holdfast: unknown command "meta remov" (did you mean remove?): see "holdfast meta --help"\n')
  })

  it('witness takes the options of a meta node and shows those that matter to it', async () => {
    const { out } = await run('witness', '--help')
    expect(out).to.include('--peers').and.not.include('--gc-grace')
    const given = [
      '--id',
      'w1',
      '--listen',
      '127.0.0.1:1',
      '--data',
      dir,
      '--gc-grace',
      '1m',
      '--peers',
      'm2=127.0.0.1:2',
    ]
    expect((await run('witness', ...given)).err).to.include('is not in the list')
  })

  it('recover has options of the same names as a node of its own', async () => {
    const { code, err } = await run('meta', 'recover', '--data', join(dir, 'none'), '--id', 'm1', '--yes')
    expect([code, err]).to.deep.equal([
      3,
      `holdfast: recover the metadata: there is no directory "${join(dir, 'none')}"\n`,
    ])
    expect((await run('meta', 'recover', '--id', 'm1')).code).to.equal(2)
  })

  it('recover changes nothing and refuses what holds no member of a cluster', async () => {
    const code = async (flags: Parameters<typeof runRecover>[0]): Promise<string> => {
      const error: unknown = await runRecover(flags, () => undefined).catch((reason: unknown) => reason)
      return isStoreError(error) ? error.code : String(error)
    }
    expect(await code({ data: dir })).to.equal('USAGE')
    expect(await code({ data: dir, id: '../m1', yes: true })).to.equal('USAGE')
    expect(await code({ data: join(dir, 'none'), id: 'm1', yes: true })).to.equal('NOT_FOUND')
    mkdirSync(join(dir, 'empty'))
    for (const yes of [true, false])
      expect(await code({ data: join(dir, 'empty'), id: 'm1', yes })).to.equal('CONDITION_FAILED')
  })
})
