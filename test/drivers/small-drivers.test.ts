/**
 * Clock, entropy, files, hasher, log and metrics: each against what its port promises.
 */

import { mkdtemp, rm, statfs } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { createNodeClock } from '../../src/drivers/clock-node.ts'
import { createNodeEntropy } from '../../src/drivers/entropy-node.ts'
import { createFiles } from '../../src/drivers/files-node.ts'
import { createXxHasher } from '../../src/drivers/hasher-xxhash.ts'
import { createJsonLog } from '../../src/drivers/log-json.ts'
import { createTextMetrics } from '../../src/drivers/metrics-text.ts'

describe('node clock', () => {
  it('never fires early and not after a cancel', async () => {
    const clock = createNodeClock()
    let cancelled = 0
    clock.after(5, () => cancelled++).cancel()
    for (const delayMs of [0, 1.3, 7.7, 20]) {
      const start = clock.monotonicMs()
      await new Promise<void>((resolve) => clock.after(delayMs, resolve))
      expect(clock.monotonicMs() - start).greaterThanOrEqual(delayMs)
    }
    expect(cancelled).equal(0)
  })

  it('ends a turn after everything that came of what had arrived by then', async () => {
    const seen: string[] = []
    await new Promise<void>((resolve) => {
      createNodeClock().turn?.(() => {
        seen.push('turn')
        resolve()
      })
      process.nextTick(() => {
        seen.push('tick')
        Promise.resolve()
          .then(() => seen.push('promise'))
          .catch(resolve)
      })
    })
    expect(seen).deep.equal(['tick', 'promise', 'turn'])
  })
})

describe('node entropy', () => {
  it('gives as many bytes as asked for and numbers in [0, 1)', () => {
    const entropy = createNodeEntropy()
    expect(entropy.bytes(16).length).equal(16)
    expect(entropy.bytes(16)).not.deep.equal(entropy.bytes(16))
    for (let i = 0; i < 100; i++) expect(entropy.unit()).within(0, 1 - 2 ** -32)
  })
})

describe('XXH64', () => {
  it('has the published values, little-endian', async () => {
    const hasher = await createXxHasher()
    const out = new Uint8Array(10)
    hasher.sumInto(new Uint8Array(0), out, 1)
    // XXH64("", 0) = ef46db3751d8e999, XXH64("abc", 0) = 44bc2cf5ad770999
    expect(Buffer.from(out).toString('hex')).equal('0099e9d85137db46ef00')
    hasher.sumInto(new TextEncoder().encode('abc'), out, 2)
    expect(Buffer.from(out.subarray(2)).toString('hex')).equal('990977adf52cbc44')
  })
})

describe('JSON log', () => {
  it('writes one object a line, with inherited fields, from its level on', () => {
    const lines: string[] = []
    const log = createJsonLog({ level: 'info', fields: { node: 'n1' }, write: (line) => lines.push(line) })
    log.debug('quiet')
    log.with({ disk: 3 }).warn('disk\nslow', { ms: 12, event: 'other' })
    expect(lines.length).equal(1)
    expect(lines[0]?.endsWith('\n')).equal(true)
    const { time, ...rest } = JSON.parse(lines[0] ?? '') as Record<string, unknown>
    expect(Date.parse(String(time))).greaterThan(0)
    expect(rest).deep.equal({ level: 'warn', event: 'disk\nslow', node: 'n1', disk: 3, ms: 12 })
  })
})

describe('text metrics', () => {
  it('renders counters, gauges and histograms by the exposition format', () => {
    const metrics = createTextMetrics()
    metrics.count('holdfast_b_total', 'B.', 2, { code: 'a"\n\\' })
    metrics.count('holdfast_b_total', 'B.', 3, { code: 'a"\n\\' })
    metrics.gauge('holdfast_a', 'A.', 1)
    metrics.gauge('holdfast_a', 'A.', 7)
    metrics.observe('holdfast_c_seconds', 'C.', 0.002, { op: 'put' })
    metrics.onScrape(() => [{ name: 'holdfast_d', help: 'D.', value: 4 }])
    const page = metrics.render()
    expect(page).include('# HELP holdfast_a A.\n# TYPE holdfast_a gauge\nholdfast_a 7\n')
    expect(page).include('holdfast_b_total{code="a\\"\\n\\\\"} 5\n')
    expect(page).include('holdfast_c_seconds_bucket{op="put",le="0.001"} 0\n')
    expect(page).include('holdfast_c_seconds_bucket{op="put",le="0.0025"} 1\n')
    expect(page).include('holdfast_c_seconds_bucket{op="put",le="+Inf"} 1\n')
    expect(page).include('holdfast_c_seconds_count{op="put"} 1\n')
    expect(page).include('holdfast_d 4\n')
    expect(page.indexOf('holdfast_a ')).lessThan(page.indexOf('holdfast_b_total'))
  })

  it('forgets a sampled series that its source no longer gives', () => {
    const metrics = createTextMetrics()
    let nodes = ['a', 'b']
    metrics.onScrape(() =>
      nodes.map((node) => ({ name: 'holdfast_up', help: 'U.', kind: 'counter' as const, value: 1, labels: { node } })),
    )
    for (let i = 0; i < 3000; i++) metrics.render()
    expect(metrics.render()).include('# TYPE holdfast_up counter\nholdfast_up{node="a"} 1\nholdfast_up{node="b"} 1\n')
    nodes = ['b']
    const page = metrics.render()
    expect(page).include('holdfast_up{node="b"} 1\n')
    expect(page).not.include('holdfast_up{node="a"}')
    nodes = []
    expect(metrics.render()).not.include('holdfast_up')
  })

  it('drops series beyond its bound and says how many', () => {
    const metrics = createTextMetrics()
    for (let i = 0; i < 6000; i++) metrics.count('holdfast_x_total', 'X.', 1, { i: String(i) })
    expect(metrics.render()).include('holdfast_metrics_dropped_total 1000\n')
  })
})

describe('node files', () => {
  it('refuses a place where no directory can be made, at once', async () => {
    let code = ''
    await createFiles('/proc/holdfast/disk')
      .write('a', new Uint8Array(1))
      .catch((error: unknown) => {
        code = (error as { code: string }).code
      })
    expect(code).equal('IO')
  })

  it('knows what is free, also before the directory is there', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'holdfast-files-'))
    try {
      const { bavail, bsize } = await statfs(directory)
      const free = await createFiles(join(directory, 'later')).freeBytes()
      expect(free / (bavail * bsize)).to.be.within(0.5, 2)
    } finally {
      await rm(directory, { recursive: true, force: true })
    }
  })
})
