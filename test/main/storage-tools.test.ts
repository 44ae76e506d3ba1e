/** `storage inspect` and `storage rebuild-index`: what they show, what they change (nothing, or the index), how they end. */

import { createHash } from 'node:crypto'
import { expect } from 'chai'
import { cp, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isStoreError } from '../../src/model/errors.ts'
import { runInspect, runRebuildIndex } from '../../src/main/storage-tools.ts'
import { openDisk } from '../../src/services/storage/engine/disk.ts'
import { runCli } from '../support/processes.ts'
import { flip, makeStore, realDeps, realOptions, spotsOf } from '../support/rot.ts'

/** Everything that could have changed in a directory: names, contents, times. */
async function stateOf(directory: string): Promise<string> {
  const hash = createHash('sha256')
  const entries = await readdir(directory, { recursive: true, withFileTypes: true })
  for (const entry of entries.map((one) => join(one.parentPath, one.name)).sort()) {
    const { mtimeMs, size, mode } = await stat(entry)
    hash.update(`${entry} ${mtimeMs} ${size} ${mode} `)
    if ((await stat(entry)).isFile()) hash.update(await readFile(entry))
  }
  return hash.digest('hex')
}

interface Report {
  readonly verdict: string
  readonly start: string
  readonly chunks: Record<string, number>
  readonly findings: readonly string[]
  readonly extents: readonly { readonly damage: number; readonly header: string }[]
}

describe('storage inspect and rebuild-index', () => {
  let base = ''
  let disk = ''

  before(async () => {
    base = await mkdtemp(join(tmpdir(), 'holdfast-tools-'))
    for (const stop of ['clean', 'crash'] as const) await makeStore(join(base, stop), stop)
  })

  beforeEach(async () => {
    disk = join(base, 'disk')
    await rm(disk, { recursive: true, force: true })
    await cp(join(base, 'clean'), disk, { recursive: true })
  })

  after(async () => {
    await rm(base, { recursive: true, force: true })
  })

  /** The report as JSON, and the code of the error that follows it. */
  async function inspect(dir: string, flags: object = {}): Promise<{ report: Report; code: string }> {
    let text = ''
    let code = 'none'
    await runInspect(dir, { json: true, ...flags }, (line) => (text += line)).catch((error: unknown) => {
      if (!isStoreError(error)) throw error
      code = error.code
    })
    return { report: JSON.parse(text === '' ? '{}' : text) as Report, code }
  }

  it('calls sound disks sound, after a stop and after a crash, and changes nothing', async () => {
    for (const [name, start] of [
      ['clean', 'nothing to do'],
      ['crash', 'replay'],
    ] as const) {
      const directory = join(base, name)
      const before = await stateOf(directory)
      const { report, code } = await inspect(directory)
      expect([code, report.verdict, report.start, report.findings]).to.deep.equal(['none', 'sound', start, []])
      expect(report.chunks).to.include({ verified: 7, corrupt: 0, inIndexNotInLog: 0 })
      expect(await stateOf(directory)).to.equal(before)
    }
  })

  it('names what is damaged: payload, record, header, index; and still changes nothing', async () => {
    const spots = await spotsOf(disk)
    const log = 'extent-0000000001.log'
    const payload = spots.find((spot) => spot.kind === 'payload' && spot.file === log)
    const table = spots.find((spot) => spot.file.endsWith('.ldb'))
    const cases: readonly [string, number, RegExp][] = [
      [log, (payload?.offset ?? 0) + 50, /^chunk 0000000000000003: block 0 does not match its checksum$/],
      [log, 4096 + 100, /^extent 1: /],
      [table?.file ?? '', 30, /^index: .*does not match its checksum$/],
      ['index/CURRENT', 2, /^index: CURRENT names no file that is there$/],
    ]
    for (const [file, offset, finding] of cases) {
      await flip(join(disk, file), offset, 0x10)
      const before = await stateOf(disk)
      const { report, code } = await inspect(disk)
      expect([code, report.verdict], file).to.deep.equal(['CORRUPT', 'damaged'])
      expect(report.findings.join('\n'), file).to.match(new RegExp(finding.source, 'm'))
      expect(await stateOf(disk)).to.equal(before)
      await flip(join(disk, file), offset, 0x10)
    }
    await flip(join(disk, log), 20, 1)
    expect((await inspect(disk)).report).to.deep.include({ verdict: 'sound' })
    expect((await inspect(disk)).report.extents[0]?.header).to.equal('one copy')
  })

  it('shows one chunk', async () => {
    expect((await inspect(disk, { chunk: '3' })).report).to.include({ state: 'held', length: 17_000 })
    expect((await inspect(disk, { chunk: '6' })).report).to.include({ state: 'quarantined' })
    expect((await inspect(disk, { chunk: '77' })).code).to.equal('NOT_FOUND')
    expect((await inspect(disk, { chunk: 'x' })).code).to.equal('USAGE')
  })

  it('rebuilds an index that is gone; the disk then reports in full', async () => {
    await rm(join(disk, 'index'), { recursive: true })
    expect((await inspect(disk)).code).to.equal('CORRUPT')
    const printed: string[] = []
    await runRebuildIndex(disk, {}, (line) => printed.push(line))
    expect(printed[0]).to.match(/^rebuilt the index of disk .*: 7 chunks from \d+ groups of the log/)
    const { report, code } = await inspect(disk)
    expect([code, report.verdict, report.chunks['verified']]).to.deep.equal(['none', 'sound', 7])
    const engine = await openDisk(await realDeps(disk), realOptions(disk))
    expect(engine.rebuilt).to.equal(true)
    await engine.close()
  })

  it('refuses a disk that a process has open, and what is no disk, each in one sentence', async () => {
    const engine = await openDisk(await realDeps(disk), realOptions(disk))
    try {
      for (const command of ['inspect', 'rebuild-index']) {
        const { code, stderr } = await runCli(['storage', command, disk])
        expect(code, stderr).to.equal(1)
        expect(stderr).to.match(/^holdfast: disk .* is in use by another process: stop .*$/m)
        expect(stderr.trim().split('\n')).to.have.length(1)
      }
    } finally {
      await engine.close()
    }
    const none = await runCli(['storage', 'inspect', base])
    expect(none.code).to.equal(3)
    expect(none.stderr).to.match(/holds no disk of a storage node: give the directory of one disk/)
  })
})
