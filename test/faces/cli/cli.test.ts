/** The command line over a cluster in memory: output, exit codes, files and trees. */

import { randomBytes } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { runCli } from '../../../src/faces/cli/cli.ts'
import { showBytes, showSeconds, table } from '../../../src/faces/cli/format.ts'
import { openSource, writeTarget } from '../../../src/faces/cli/files.ts'
import { Progress } from '../../../src/faces/cli/progress.ts'
import { isStoreError, StoreError } from '../../../src/model/errors.ts'
import { createClient } from '../../../src/sdk/client.ts'
import type { ClusterStatus } from '../../../src/sdk/types.ts'
import { createFakeCluster, type FakeCluster } from '../../sdk/fake-cluster.ts'

interface Outcome {
  readonly code: number
  readonly out: string
  readonly err: string
}

describe('command line', () => {
  let cluster: FakeCluster
  let dir: string
  let interrupt: ((exitCode: number) => void) | undefined

  beforeEach(async () => {
    cluster = await createFakeCluster(4)
    dir = mkdtempSync(join(tmpdir(), 'holdfast-cli-'))
  })

  afterEach(() => rmSync(dir, { recursive: true, force: true }))

  async function run(...args: string[]): Promise<Outcome> {
    const out: Uint8Array[] = []
    let err = ''
    const code = await runCli(
      args,
      {
        connect: async () => createClient(cluster.env, { meta: ['meta:7400'], retryMs: 2000 }),
        stdout: { write: (text) => out.push(Buffer.from(text)) },
        stderr: {
          write: (text) => {
            err += text
          },
        },
        stdin: (async function* () {
          yield Buffer.from('from stdin')
        })(),
        writeOut: async (bytes) => {
          out.push(bytes.slice())
        },
        onInterrupt: (handler) => {
          interrupt = handler
          return () => undefined
        },
      },
      { version: '1.2.3' },
    )
    return { code, out: Buffer.concat(out).toString(), err }
  }

  it('puts and gets a file and prints one JSON document with what the contract names', async () => {
    const source = join(dir, 'source')
    const bytes = randomBytes(5_000_000)
    writeFileSync(source, bytes)
    const put = await run('put', source, 'photos/cat', '--json')
    expect(put.code, put.err).to.equal(0)
    expect(Object.keys(JSON.parse(put.out) as object)).to.deep.equal([
      'bucket',
      'key',
      'size',
      'etag',
      'version',
      'chunks',
      'durable',
    ])
    const target = join(dir, 'target')
    expect((await run('get', 'photos/cat', target)).code).to.equal(0)
    expect(Buffer.compare(readFileSync(target), bytes)).to.equal(0)
    expect((await run('get', 'photos/cat', '-', '--range', '0-3')).out).to.equal(bytes.subarray(0, 4).toString())
  })

  it('copies by reference and claims no durable copies of its own', async () => {
    await run('put', '-', 'photos/in')
    const { code, out, err } = await run('cp', 'photos/in', 'photos/out', '--json')
    expect(code, err).to.equal(0)
    expect(JSON.parse(out)).to.deep.include({ key: 'out', size: 10, chunks: 1 })
    expect(JSON.parse(out)).not.to.have.property('durable')
  })

  it('reads stdin and writes stdout', async () => {
    expect((await run('put', '-', 'photos/in')).code).to.equal(0)
    expect((await run('get', 'photos/in', '-')).out).to.equal('from stdin')
  })

  it('ends usage errors with 2, one line and a suggestion', async () => {
    const cases: [string[], string][] = [
      [['putt'], 'did you mean put?'],
      [['ls', '--jsn'], 'did you mean --json?'],
      [['put', 'x'], "missing required argument 'target'"],
      [['put', 'x', 'photos'], 'names no object'],
      [['put', 'x', 'photos/y', '--write', 'most'], '--write'],
      [['put', 'x', 'photos/y', '--replicas', '9'], '--replicas'],
      [['get', 'photos/y', 'z', '--range', '5-2'], '--range'],
      [['ls', '--timeout', 'soon'], '--timeout'],
      [['put', 'x', 'PHOTOS/y'], 'bucket name'],
      [['stat', 'photos/a//b'], 'empty path segment'],
      [['stat', 'photos/a/../b'], '".."'],
    ]
    for (const [args, expected] of cases) {
      const { code, err, out } = await run(...args)
      expect(code, args.join(' ')).to.equal(2)
      expect(err, args.join(' ')).to.include(expected)
      expect(err.trimEnd().split('\n'), args.join(' ')).to.have.lengthOf(1)
      expect(err).to.match(/^holdfast: /)
      expect(out).to.equal('')
    }
  })

  it('ends with 2 when help is asked for a command that does not exist', async () => {
    const cases: [string[], string][] = [
      [['chunk', 'why', '--help'], '"chunk why"'],
      [['node', 'show', '-h'], '"node show"'],
      [['witness', '--help'], '"witness"'],
      [['--help', 'witness'], '"witness"'],
      [['help', 'putt'], '(did you mean put?)'],
    ]
    for (const [args, expected] of cases) {
      const { code, err, out } = await run(...args)
      expect(code, args.join(' ')).to.equal(2)
      expect(err).to.match(/^holdfast: unknown command .*\n$/)
      expect(err).to.include(expected)
      expect(out).to.equal('')
    }
    for (const args of [['--help'], ['help'], ['help', 'put'], ['chunk', '--help'], ['chunk', 'put', '--help']]) {
      const { code, out } = await run(...args)
      expect(code, args.join(' ')).to.equal(0)
      expect(out).to.include('Usage: holdfast')
    }
  })

  it('shows one screen, verdict first, and ends with 5 while no meta node leads', async () => {
    cluster.meta.before = () => new StoreError('NOT_LEADER', 'no leader is known')
    const shown = await run('status', '--timeout', '500ms')
    expect(shown.code, shown.err).to.equal(5)
    expect(shown.out).to.match(/^no quorum: 1 of 1 meta node answer/)
    expect(shown.out).to.match(/meta:7400 +yes/)
    const { code, out } = await run('status', '--json', '--timeout', '500ms')
    expect(code).to.equal(5)
    const status = JSON.parse(out) as ClusterStatus
    expect(status.verdict).to.equal('no quorum')
    expect(status.codes.map((one) => [one.code, one.severity])).to.deep.equal([['NO_QUORUM', 'critical']])
    expect(status.meta).to.deep.equal([
      {
        id: 'meta:7400',
        address: 'meta:7400',
        role: 'follower',
        reachable: true,
        term: 0,
        applied: 0,
        versionMax: 0,
        lowSpace: false,
      },
    ])
    expect(status.chunks).to.deep.equal({ total: 0, full: 0, degraded: 0, lastCopy: 0, lost: 0 })
    expect(status).to.deep.include({ canLose: 0, nodes: [], scrub: null, incidents: [] })
  })

  it('shows meta nodes that are silent or gone as not reachable', async () => {
    cluster.meta.before = () => 'hang'
    const silent = await run('status', '--json', '--timeout', '300ms')
    expect(silent.code).to.equal(5)
    expect((JSON.parse(silent.out) as ClusterStatus).meta.map((node) => node.reachable)).to.deep.equal([false])
    cluster.meta.before = () => 'break'
    const gone = await run('status', '--timeout', '300ms')
    expect(gone.code).to.equal(5)
    expect(gone.out).to.match(/^no quorum: 0 of 1[^]*meta:7400 +NO/)
  })

  it('ends with 3 for what is not there, 4 for a conflict, 5 for no answer in time, 6 for lost data', async () => {
    expect((await run('get', 'photos/none', join(dir, 'x'))).code).to.equal(3)
    await run('put', '-', 'photos/in')
    expect((await run('put', '-', 'photos/in', '--if-absent')).code).to.equal(4)
    for (const node of cluster.storage) node.chunks.clear()
    const lost = await run('get', 'photos/in', join(dir, 'x'))
    expect(lost.code).to.equal(6)
    expect(readdirSync(dir)).to.deep.equal([])
    cluster.meta.before = () => 'hang'
    expect((await run('stat', 'photos/in', '--timeout', '20ms')).code).to.equal(5)
  })

  it('shows the cause chain with --verbose only', async () => {
    cluster.meta.before = () => new StoreError('NOT_LEADER', 'no leader is known')
    expect((await run('stat', 'photos/x')).err).not.to.include('caused by')
    expect((await run('stat', 'photos/x', '--verbose')).err).to.include('caused by: no leader is known [NOT_LEADER]')
  })

  it('leaves nothing visible and gives the lease back on Ctrl-C during put, and ends with 130', async () => {
    for (const node of cluster.storage) node.onPut = () => 'hang'
    const putting = run('put', '-', 'photos/in')
    while (cluster.storage.every((node) => node.inFlightPeak === 0))
      await new Promise((resolve) => setImmediate(resolve))
    interrupt?.(130)
    const { code, err } = await putting
    expect(code).to.equal(130)
    expect(err).to.equal('')
    expect(cluster.meta.objects.size).to.equal(0)
    expect(cluster.meta.releasedLeases).to.have.lengthOf(1)
  })

  it('refuses a source that shrinks, grows or vanishes, and stores nothing', async () => {
    const source = join(dir, 'source')
    const changes: [string, () => void][] = [
      ['shrank', () => truncateSync(source, 10)],
      ['grew', () => writeFileSync(source, 'more', { flag: 'a' })],
      ['vanished', () => rmSync(source)],
    ]
    for (const [how, change] of changes) {
      writeFileSync(source, randomBytes(6_000_000))
      let changed = false
      cluster.meta.before = (request) => {
        if (request.place && !changed) {
          changed = true
          change()
        }
        return undefined
      }
      const { code, err } = await run('put', source, 'photos/cat')
      expect(code, how).to.equal(1)
      expect(err).to.include(how)
      expect(cluster.meta.objects.size).to.equal(0)
    }
  })

  it('removes the temporary file and tells NO_SPACE when the disk is full', async () => {
    async function* pieces(): AsyncGenerator<Uint8Array> {
      yield Buffer.from('half')
      throw Object.assign(new Error('write'), { code: 'ENOSPC' })
    }
    let failure: unknown
    await writeTarget(join(dir, 'x'), pieces()).catch((error: unknown) => {
      failure = error
    })
    expect(isStoreError(failure) && failure.code).to.equal('NO_SPACE')
    expect(readdirSync(dir)).to.deep.equal([])
  })

  it('reads a source again from its start', async () => {
    writeFileSync(join(dir, 'x'), 'abc')
    const source = await openSource(join(dir, 'x'))
    for (let i = 0; i < 2; i++) {
      const into = Buffer.alloc(10)
      expect(await source.body().fill(into)).to.equal(3)
    }
    await source.close()
  })

  describe('trees', () => {
    function tree(): string {
      const root = join(dir, 'tree')
      mkdirSync(join(root, 'a', 'b'), { recursive: true })
      writeFileSync(join(root, 'a', 'b', 'ünï code'), 'one')
      writeFileSync(join(root, 'empty'), '')
      return root
    }

    it('stores every file of a directory under the prefix', async () => {
      const { code, err, out } = await run('put', '-r', tree(), 'photos/t', '--json')
      expect(code, err).to.equal(0)
      expect([...cluster.meta.objects.keys()].sort()).to.deep.equal(['photos/t/a/b/ünï code', 'photos/t/empty'])
      expect(JSON.parse(out)).to.deep.include({ files: 2, bytes: 3 })
    })

    it('refuses a tree with a name that is no key, naming the file, before anything is stored', async () => {
      const root = tree()
      writeFileSync(Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0xfe])]), 'x')
      const { code, err } = await run('put', '-r', root, 'photos/t')
      expect(code).to.equal(2)
      expect(err).to.include('not UTF-8')
      expect(cluster.meta.objects.size).to.equal(0)
    })

    it('writes nothing outside of its directory, also through a link', async () => {
      await run('put', '-', 'photos/t/link/file')
      const target = join(dir, 'target')
      const outside = join(dir, 'outside')
      mkdirSync(target)
      mkdirSync(outside)
      symlinkSync(outside, join(target, 'link'))
      const { code, err } = await run('get', '-r', 'photos/t', target)
      expect(code).to.equal(1)
      expect(err).to.include('is a link')
      expect(readdirSync(outside)).to.deep.equal([])
      rmSync(join(target, 'link'))
      expect((await run('get', '-r', 'photos/t', target)).code).to.equal(0)
      expect(existsSync(join(target, 'link', 'file'))).to.equal(true)
    })
  })

  it('stops a tree at the first failure', async () => {
    const { code } = await run('get', '-r', 'photos/none', join(dir, 'x'))
    expect(code).to.equal(3)
  })
})

describe('format', () => {
  it('shows sizes and times with units', () => {
    expect(showBytes(0)).to.equal('0 B')
    expect(showBytes(1536)).to.equal('1.5 KiB')
    expect(showBytes(5 * 1024 ** 3)).to.equal('5.0 GiB')
    expect(showSeconds(185)).to.equal('3m 05s')
  })

  it('aligns columns', () => {
    expect(
      table(
        ['A', 'N'],
        [
          ['x', '10'],
          ['long', '9'],
        ],
        ['N'],
      ),
    ).to.equal('A      N\nx     10\nlong   9')
  })

  it('draws progress only on a terminal and only after a second', () => {
    let written = ''
    let nowMs = 0
    const write = (text: string): void => {
      written += text
    }
    const piped = new Progress({ write }, 'put', 100, () => nowMs)
    const shown = new Progress({ write, isTTY: true }, 'put', 100, () => nowMs)
    shown.add(10)
    nowMs = 2000
    piped.add(50)
    expect(written).to.equal('')
    shown.add(40)
    expect(written).to.include('50%')
  })

  it('draws 80 columns on a terminal that reports none', () => {
    let written = ''
    let nowMs = 0
    const write = (text: string): void => {
      written += text
    }
    const progress = new Progress({ write, isTTY: true, columns: 0 }, 'put '.repeat(40), 100, () => nowMs)
    nowMs = 2000
    progress.add(50)
    expect(written).to.equal(`\r\x1b[2K${'put '.repeat(40).slice(0, 79)}`)
  })
})
