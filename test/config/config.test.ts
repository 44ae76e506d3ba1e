/** Where configuration comes from and what it refuses. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { checkEnvironment, loadConfig } from '../../src/config/load.ts'
import { metaConfig, metaOptions, parseOption, storageConfig, storageOptions } from '../../src/config/schema.ts'

const metaFlags = { id: 'm1', listen: '127.0.0.1:7400', data: '/tmp/m1', peers: 'm1=127.0.0.1:7400' }

describe('config', () => {
  let dir: string

  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'holdfast-config-'))
  })

  after(() => rmSync(dir, { recursive: true, force: true }))

  function file(content: string): string {
    const path = join(dir, 'config.json')
    writeFileSync(path, content)
    return path
  }

  it('takes flags over environment over the file over defaults', () => {
    const path = file(JSON.stringify({ 'gc-grace': '1m', 'suspect-after': 4000, 'raft-tick': '70ms' }))
    const environment = { HOLDFAST_GC_GRACE: '2m', HOLDFAST_SUSPECT_AFTER: '5s' }
    const config = metaConfig(
      loadConfig(metaOptions, { flags: { ...metaFlags, 'gc-grace': '3m' }, environment, file: path }),
    )
    expect(config.gcGraceMs).to.equal(180_000)
    expect(config.health.suspectMs).to.equal(5000)
    expect(config.raft.tickMs).to.equal(70)
    expect(config.health.downMs).to.equal(10_000)
  })

  it('refuses unknown keys with a suggestion, wherever they are', () => {
    const path = file('{"gc-grase": "1m"}')
    expect(() => loadConfig(metaOptions, { flags: metaFlags, environment: {}, file: path })).to.throw(
      'did you mean gc-grace?',
    )
    expect(() => checkEnvironment(metaOptions, { HOLDFAST_GC_GRASE: '1m' })).to.throw('did you mean HOLDFAST_GC_GRACE?')
    checkEnvironment(metaOptions, { HOLDFAST_META: 'x:1', HOLDFAST_SERVICE_PORT_7400_TCP: '1', HOME: '/' })
  })

  it('refuses values without a unit it knows or outside their bounds', () => {
    const heartbeat = metaOptions.find((option) => option.name === 'heartbeat')
    if (heartbeat === undefined) throw new Error('no such option')
    for (const value of ['1ms', '2h', 'soon', '5 parsecs', '-1s', '']) {
      expect(() => parseOption(heartbeat, value, 'test'), value).to.throw('heartbeat')
    }
    expect(parseOption(heartbeat, '1.5s', 'test')).to.equal(1500)
  })

  it('names what is missing and where it may be given', () => {
    expect(() => loadConfig(metaOptions, { flags: {}, environment: {} })).to.throw('HOLDFAST_ID')
  })

  it('wants an address to advertise when it listens on a wildcard', () => {
    const flags = { id: 's1', listen: '0.0.0.0:7500', disk: '/d', meta: 'a:1' }
    expect(() => storageConfig(loadConfig(storageOptions, { flags, environment: {} }))).to.throw('wildcard')
    const config = storageConfig(
      loadConfig(storageOptions, { flags: { ...flags, advertise: 'a:1,b:2' }, environment: {} }),
    )
    expect(config.advertise).to.deep.equal(['a:1', 'b:2'])
    expect(config.extentBytes).to.equal(256 * 1024 * 1024)
    expect(config.scrub).to.deep.equal({ on: true, periodMs: 604_800_000, rateMin: 1 << 20, rateMax: 128 << 20 })
    const scrub = { ...flags, listen: 'a:1', scrub: 'off', 'scrub-rate-min': '2MiB', 'scrub-rate-max': '1MiB' }
    expect(() => storageConfig(loadConfig(storageOptions, { flags: scrub, environment: {} }))).to.throw(
      'scrub-rate-max',
    )
    expect(config.compaction).to.deep.equal({ liveRatio: 0.5, bytesPerSecond: 64 * 1024 * 1024, idleMs: 300_000 })
  })

  it('wants itself among the peers, each once', () => {
    const load = (peers: string) =>
      metaConfig(loadConfig(metaOptions, { flags: { ...metaFlags, peers }, environment: {} }))
    expect(() => load('m2=127.0.0.1:7401')).to.throw('is not in the list')
    expect(() => load('m1=127.0.0.1:7400,m1=127.0.0.1:7401')).to.throw('twice')
    expect(() => load('m1')).to.throw('id=host:port')
  })

  it('takes the options of a meta node for a witness, and knows which are of use to it', () => {
    const path = file('{"gc-grace": "1m", "reserve": "1GiB"}')
    const values = loadConfig(metaOptions, { flags: metaFlags, environment: {}, file: path })
    expect(metaConfig(values)).to.deep.include({ witness: false, reserveBytes: 1024 ** 3 })
    expect(metaConfig(values, true)).to.deep.include({ witness: true, reserveBytes: 1024 ** 3 })
    const leader = metaOptions.filter((option) => option.leader === true).map((option) => option.name)
    expect(leader).to.include.members(['gc-grace', 'repair-copies-max']).and.not.include('raft-tick')
  })

  it('refuses Raft times that cannot work', () => {
    const load = (flags: Record<string, string>) =>
      metaConfig(loadConfig(metaOptions, { flags: { ...metaFlags, ...flags }, environment: {} })).raft
    expect(load({})).to.deep.equal({
      tickMs: 25,
      heartbeatTicks: 2,
      electionTicks: 10,
      electionSpreadTicks: 6,
      leaseReads: false,
    })
    expect(load({ 'raft-lease-reads': 'on' }).leaseReads).to.equal(true)
    expect(() => load({ 'raft-lease-reads': 'yes' })).to.throw('neither on nor off')
    expect(() => load({ 'raft-heartbeat-ticks': '10' })).to.throw('--raft-election-ticks')
    expect(() => load({ 'raft-tick': '1ms' })).to.throw('out of bounds')
  })

  it('refuses a file that is not one JSON object', () => {
    for (const content of ['[]', 'nope', '1']) {
      expect(
        () => loadConfig(metaOptions, { flags: metaFlags, environment: {}, file: file(content) }),
        content,
      ).to.throw('JSON')
    }
  })
})
