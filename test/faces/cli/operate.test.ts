/** The commands of operators over a fake leader: what they show, what they refuse, and how they end. */

import { expect } from 'chai'
import { planRemove } from '../../../src/faces/cli/meta.ts'
import { parseSize } from '../../../src/faces/cli/operate.ts'
import { runCli } from '../../../src/faces/cli/cli.ts'
import { StoreError } from '../../../src/model/errors.ts'
import { createClient } from '../../../src/sdk/client.ts'
import type { StatusMeta } from '../../../src/sdk/types.ts'
import type { FakeAdmin } from '../../sdk/fake-admin.ts'
import { createFakeCluster, type FakeCluster } from '../../sdk/fake-cluster.ts'

interface Outcome {
  readonly code: number
  readonly out: string
  readonly err: string
}

describe('operators’ commands', () => {
  let cluster: FakeCluster
  let fake: FakeAdmin

  beforeEach(async () => {
    cluster = await createFakeCluster(3)
    fake = cluster.meta.admin
  })

  async function run(...args: string[]): Promise<Outcome> {
    let out = ''
    let err = ''
    const code = await runCli(
      args,
      {
        connect: async ({ sessions }) => createClient(cluster.env, { meta: ['meta:7400'], retryMs: 2000, sessions }),
        stdout: { write: (text) => (out += text) },
        stderr: { write: (text) => (err += text) },
        stdin: (async function* () {})(),
        writeOut: async () => undefined,
        onInterrupt: () => () => undefined,
      },
      { version: '1.2.3' },
    )
    return { code, out, err }
  }

  async function json(...args: string[]): Promise<Record<string, unknown>> {
    const { code, out, err } = await run(...args, '--json')
    expect(code, err).to.equal(0)
    return JSON.parse(out) as Record<string, unknown>
  }

  it('need no session', async () => {
    await run('mb', 'pets')
    await run('quota', 'set', 'photos', '--bytes', '1GiB')
    expect(cluster.meta.calls).not.to.include('openSession')
  })

  it('have help with examples, and end with 2 when they are used wrongly, in one line', async () => {
    for (const command of [
      'meta add',
      'meta remove',
      'meta transfer',
      'quota set',
      'upgrade',
      'deletes resume',
      'scrub start',
    ]) {
      const { code, out } = await run(...command.split(' '), '--help')
      expect(code).to.equal(0)
      expect(out, command).to.match(/Usage: holdfast [^]*--json[^]*--timeout[^]*Examples:\n {2}holdfast /)
    }
    const wrong = [
      ['meta', 'add', 'm4'],
      ['meta', 'add', 'm4=nowhere'],
      ['meta', 'add', 'M 4=10.0.0.4:7400'],
      ['meta', 'remove'],
      ['quota', 'set', 'photos'],
      ['quota', 'set', '--bytes', '1GiB'],
      ['quota', 'set', 'photos', '--cluster', '--bytes', '1GiB'],
      ['quota', 'set', 'photos', '--bytes', 'much'],
      ['quota', 'set', 'photos', '--objects', '1.5'],
      ['quota', 'set', 'NO', '--objects', '1'],
    ]
    for (const args of wrong) {
      const { code, out, err } = await run(...args)
      expect([code, out], `${args.join(' ')}: ${err}`).to.deep.equal([2, ''])
      expect(err, args.join(' ')).to.match(/^holdfast: [^\n]*\n$/)
    }
  })

  describe('meta', () => {
    it('ls shows roles, versions and what is low on space', async () => {
      fake.members.push({ id: 'w1', addresses: ['w1:7400'], role: 'witness', lowSpace: true })
      const { code, out } = await run('meta', 'ls')
      expect(code).to.equal(0)
      expect(out).to.match(/m1 +leader +yes +m1:7400 +3 +100 +2\n/)
      expect(out).to.match(/w1 +witness +NO +w1:7400 +0 +0 +\? +low space\n/)
      const members = (await json('meta', 'ls')) as unknown as StatusMeta[]
      expect(members.map((member) => member.role)).to.deep.equal(['leader', 'follower', 'follower', 'witness'])
    })

    it('add waits until the node counts and tells on stderr what it waits for', async () => {
      fake.catchUps = 2
      const { code, out, err } = await run('meta', 'add', 'm4=10.0.0.4:7400', '--json')
      expect(code, err).to.equal(0)
      expect(JSON.parse(out)).to.deep.include({ id: 'm4', address: '10.0.0.4:7400', role: 'follower' })
      expect(err).to.equal('m4 is a learner and catches up: entry 50 of 100\n'.repeat(2))
    })

    it('add ends with 5 after --timeout and says that the node goes on by itself', async () => {
      fake.catchUps = 1
      let asked = 0
      cluster.meta.before = (request) => (request.addMetaMember && ++asked > 1 ? 'hang' : undefined)
      const { code, err } = await run('meta', 'add', 'm4=10.0.0.4:7400', '--timeout', '300ms')
      expect(code).to.equal(5)
      expect(err).to.match(/entry 50 of 100: it goes on by itself, look at "holdfast meta ls"\n$/)
    })

    it('remove shows what is left and does it when one more may fail', async () => {
      fake.members.push({ id: 'm4', addresses: ['m4:7400'], role: 'follower', reachable: true })
      const { code, out } = await run('meta', 'remove', 'm4')
      expect(code).to.equal(0)
      expect(out).to.match(
        /^remove m4 \(follower, m4:7400\): m1, m2, m3 remain, 2 must be up: 1 node may fail\nremoved m4/,
      )
    })

    it('remove refuses with 4 when none could fail then, and does it with --yes', async () => {
      const refused = await run('meta', 'remove', 'm3', '--json')
      expect([refused.code, refused.out]).to.deep.equal([4, ''])
      expect(refused.err).to.match(
        /^holdfast: not done: remove m3 .*: m1, m2 remain, 2 must be up: none may fail: .*--yes\n$/,
      )
      expect(fake.members).to.have.lengthOf(3)
      expect(await json('meta', 'remove', 'm3', '--yes')).to.deep.include({
        removed: 'm3',
        voters: ['m1', 'm2'],
        spare: 0,
      })
      expect(fake.members).to.have.lengthOf(2)
    })

    it('remove ends with 3 for a node that is none', async () => {
      const { code, err } = await run('meta', 'remove', 'n3', '--yes')
      expect(code).to.equal(3)
      expect(err).to.include('"n3" is no meta node of this cluster: it has m1, m2, m3')
    })

    it('transfer says who leads and how long nobody did', async () => {
      expect((await run('meta', 'transfer', 'm3')).out).to.equal('m3 leads; 12 ms without a leader\n')
      expect(await json('meta', 'transfer')).to.deep.equal({ leader: 'm2', tookMs: 12 })
    })

    it('counts what a removal leaves', () => {
      const member = (id: string, role: StatusMeta['role'], reachable = true): StatusMeta => ({
        id,
        role,
        reachable,
        address: '',
        term: 0,
        applied: 0,
        versionMax: 2,
        lowSpace: false,
      })
      const five = ['a', 'b', 'c', 'd', 'e'].map((id) => member(id, 'follower'))
      expect(planRemove(five, 'a')).to.deep.include({ needed: 3, spare: 1 })
      const oneSilent = [...five.slice(0, 4), member('e', 'follower', false)]
      expect(planRemove(oneSilent, 'a')).to.deep.include({ needed: 3, spare: 0, silent: ['e'] })
      expect(planRemove(oneSilent, 'e'), 'the one that is gone costs nothing').to.deep.include({ spare: 1 })
      const withLearner = [...five.slice(0, 3), member('d', 'learner')]
      expect(planRemove(withLearner, 'd')).to.deep.include({ voters: ['a', 'b', 'c'], spare: 1 })
      const pair = [member('a', 'leader'), member('b', 'follower'), member('w', 'witness')]
      expect(planRemove(pair, 'w')).to.deep.include({ voters: ['a', 'b'], needed: 2, spare: 0 })
    })
  })

  describe('quota', () => {
    it('sets one bound, keeps the other, and takes one away', async () => {
      const photos = { bucket: 'photos', bytes: 10, objects: 1 }
      expect(await json('quota', 'set', 'photos', '--bytes', '10GiB')).to.deep.equal({
        ...photos,
        bytesMax: 10 * 1024 ** 3,
        objectsMax: 0,
      })
      expect(await json('quota', 'set', 'photos', '--objects', '1000')).to.deep.include({ bytesMax: 10 * 1024 ** 3 })
      expect(await json('quota', 'set', 'photos', '--bytes', 'none')).to.deep.include({ bytesMax: 0, objectsMax: 1000 })
      expect((await run('quota', 'set', '--cluster', '--objects', '5')).code).to.equal(0)
      const { out } = await run('quota', 'ls')
      expect(out).to.match(/\(cluster\) +10 B +- +1 +5\n/)
      expect(out).to.match(/photos +10 B +- +1 +1000\n/)
    })

    it('passes on what the cluster refuses', async () => {
      cluster.meta.before = (request) =>
        request.setQuota ? new StoreError('INCOMPATIBLE_VERSION', 'quotas need version 2') : undefined
      expect((await run('quota', 'set', '--cluster', '--objects', '5')).code).to.equal(1)
    })

    it('reads sizes', () => {
      expect(['0', '5', '1.5KiB', '2 GiB', 'none'].map((text) => parseSize(text, '--bytes'))).to.deep.equal([
        0,
        5,
        1536,
        2 * 1024 ** 3,
        0,
      ])
      for (const text of ['', '-1', '1GB', '1.5', '9e9', '99999999PiB'])
        expect(() => parseSize(text, '--bytes'), text).to.throw('--bytes')
    })
  })

  describe('upgrade', () => {
    it('shows what each node supports and raises the version with --yes only', async () => {
      const shown = await run('upgrade')
      expect(shown.code).to.equal(0)
      expect(shown.out).to.match(
        /^version 1 is in force; every node supports version 2: .*--yes.*no way back[^]*s1 +storage +2\n/,
      )
      expect(fake.version).to.equal(1)
      expect(await json('upgrade', '--yes')).to.deep.include({ version: 2, raised: true })
      expect(await json('upgrade', '--yes')).to.deep.include({ version: 2, raised: false })
      expect((await run('upgrade')).out).to.include('nothing to do')
    })

    it('names the nodes that were not heard of, and ends with 4 when told to go on', async () => {
      fake.versions.push({ id: 's2', kind: 'storage', versionMax: 0 })
      expect((await run('upgrade')).out).to.match(/what s2 supports is not known[^]*s2 +storage +\?\n/)
      const { code, err } = await run('upgrade', '--yes')
      expect(code).to.equal(4)
      expect(err).to.match(/^holdfast: not done: version 1: what s2 supports[^\n]*\n$/)
      expect(fake.version).to.equal(1)
    })
  })

  describe('deletes', () => {
    it('are let go with --yes only, and what is lost by it is said', async () => {
      expect((await run('deletes', 'status')).out).to.equal('deletes go on as usual\n')
      Object.assign(fake, { held: true, incarnation: 2, unknownReplicas: 5 })
      expect(await json('deletes', 'status')).to.deep.equal({ held: true, incarnation: 2, unknownReplicas: 5 })
      const refused = await run('deletes', 'resume')
      expect([refused.code, refused.out]).to.deep.equal([4, ''])
      expect(refused.err).to.match(/incarnation 2\): 5 replicas on disks that the metadata does not know.*--yes/)
      expect(fake.held).to.equal(true)
      expect(await json('deletes', 'resume', '--yes')).to.deep.include({ held: false })
      expect((await run('deletes', 'resume')).code, 'nothing is held').to.equal(0)
    })
  })

  describe('scrub', () => {
    it('shows progress, rate, debt and findings, of each disk and in total', async () => {
      const report = { state: 'running', pass: 2, totalBytes: 2 ** 30, startedMs: 1_700_000_000_000, findings: 1 }
      fake.scrub = {
        scannedBytes: 2 ** 29,
        totalBytes: 2 ** 31,
        bytesPerSecond: 2 ** 20,
        debtSeconds: 7200,
        found: 300,
        open: 1,
        disks: [
          {
            node: 's1',
            disk: 1,
            report: { ...report, scannedBytes: 2 ** 29, bytesPerSecond: 2 ** 20, debtSeconds: 7200 },
          },
          { node: 's2', disk: 2, report: { state: 'paused', direct: true, notes: ['extent 4: damaged'] } },
        ],
        findings: [
          { finding: { chunk: 65_536, node: 's1', disk: 1, finding: 'block 1', foundMs: 1 }, state: 'quarantined' },
          { finding: { chunk: 65_537, node: 's2', disk: 2, finding: 'block 2' }, state: 'repaired', source: 's3' },
        ],
      }
      const { code, out, err } = await run('scrub', 'status')
      expect(code, err).to.equal(0)
      expect(out).to.match(/^scrub: 25 % of 2.0 GiB, 1.0 MiB\/s, debt 2h 00m, paused on 1 disk; 300 findings, 1 open\n/)
      expect(out).to.match(
        /s1 +1 +running +2 +50 % of 1.0 GiB +1.0 MiB\/s +2h 00m +2023-11-14 22:13:20 +never +1 +page cache\n/,
      )
      expect(out).to.include('! s2, disk 2: extent 4: damaged\n')
      expect(out).to.match(
        /corrupt replicas, the newest 2 of 300:\n[^]*s1 +1 +quarantined +block 1\n[^]*repaired from s3/,
      )
      const status = await json('scrub', 'status')
      expect(status).to.deep.include({ found: 300, open: 1, debtSeconds: 7200 })
      expect((status['disks'] as Record<string, unknown>[])[1]).to.deep.include({ node: 's2', direct: true, pass: 0 })
      expect((status['findings'] as Record<string, unknown>[])[0]).to.deep.include({ source: null, node: 's1' })
    })

    it('begins, pauses and goes on, everywhere or on one node, and fails when a disk does not take it', async () => {
      expect((await run('scrub', 'start')).out).to.equal('scrub of 4 disks: a pass begins\n')
      expect(await json('scrub', 'pause', '--node', 's1')).to.deep.equal({ disks: 1, refused: [] })
      const { code, out } = await run('scrub', 'resume', '--node', 's4')
      expect([code, out]).to.deep.equal([5, 'scrub of 1 disk: goes on\n! not on s4, disk 4: too old\n'])
      expect((await run('scrub', 'start', '--node', 'S 4')).code).to.equal(2)
      expect(fake.directed).to.deep.equal(['start all', 'pause s1', 'resume s4'])
    })
  })

  it('status shows the version and the roles', async () => {
    fake.members.push({ id: 'm4', addresses: ['m4:7400'], role: 'learner', reachable: true, lowSpace: true })
    const { code, out, err } = await run('status')
    expect(code, err).to.equal(0)
    expect(out).to.match(/cluster +.*, version \d/)
    expect(out).to.match(/m4 +learner +yes .*low space/)
  })
})
