/** The checks that keep the layers apart must themselves notice: each rule is broken here once and has to be found. */

import { expect } from 'chai'
import { checkBanned } from '../../tools/tidy/banned.ts'
import { checkLayers } from '../../tools/tidy/layers.ts'
import { codeOnly, importsOf } from '../../tools/tidy/source.ts'

function layerFindings(path: string, text: string): string[] {
  return checkLayers([{ path, text }]).map((finding) => finding.message)
}

function bannedFindings(path: string, text: string): string[] {
  return checkBanned([{ path, text: `/** A file. */\n${text}\n` }]).map((finding) => finding.message)
}

describe('tidy: source scanner', () => {
  it('blanks comments, strings and regular expressions but keeps code in template holes', () => {
    const code = codeOnly(
      "const a = 'Date' // Date\nconst b = `Date ${Date.now()}` /* Date */\nconst c = /Date'/",
      true,
    )
    expect(code.match(/Date/g)).to.have.length(1)
    expect(code.split('\n')).to.have.length(3)
  })

  it('finds static, type, re-export and dynamic imports with their lines', () => {
    const text =
      "import a from './a.ts'\nimport type { b } from './b.ts'\nexport { c } from './c.ts'\nconst d = await import('./d.ts')\nimport './e.ts'\n// import './f.ts'"
    expect(importsOf(text)).to.deep.equal([
      { line: 1, from: './a.ts' },
      { line: 2, from: './b.ts' },
      { line: 3, from: './c.ts' },
      { line: 4, from: './d.ts' },
      { line: 5, from: './e.ts' },
    ])
  })
})

describe('tidy: layer table', () => {
  it('refuses a service that imports a driver, also only its type', () => {
    const text = "import type { x } from '../../drivers/kv-level.ts'"
    expect(layerFindings('src/services/meta/a.ts', text)[0]).to.contain('src/drivers/kv-level.ts')
  })

  it('refuses a core that imports a port, a package or async ground', () => {
    expect(layerFindings('src/core/raft/a.ts', "import type { Clock } from '../../ports/clock.ts'")).to.have.length(1)
    expect(layerFindings('src/core/raft/a.ts', "import { x } from 'level'")).to.have.length(1)
    expect(layerFindings('src/core/raft/a.ts', "import { x } from '../../base/async/mutex.ts'")).to.have.length(1)
  })

  it('lets services see the types of the configuration and nothing else of it', () => {
    expect(layerFindings('src/services/meta/a.ts', "import type { x } from '../../config/types.ts'")).to.have.length(0)
    expect(layerFindings('src/services/meta/a.ts', "import { x } from '../../config/load.ts'")).to.have.length(1)
  })

  it('refuses a folder that has no row', () => {
    expect(layerFindings('src/stuff/a.ts', '')[0]).to.contain('not in the layer table')
  })
})

describe('tidy: banned words', () => {
  it('refuses clocks, timers and randomness of the machine below the drivers', () => {
    for (const text of ['Date.now()', 'setTimeout(f, 1)', 'Math.random()', 'process.exit()', 'console.log(1)']) {
      expect(bannedFindings('src/services/meta/a.ts', text), text).to.have.length(1)
    }
    expect(bannedFindings('src/drivers/a.ts', 'Date.now()')).to.have.length(0)
  })

  it('does not mind the words as properties, in strings or in comments', () => {
    expect(bannedFindings('src/core/a.ts', "const x = { process: 1 }; x.process; 'Date'; // Date")).to.have.length(0)
  })

  it('refuses promises in cores', () => {
    expect(bannedFindings('src/core/a.ts', 'export async function f() {}')).to.have.length(1)
  })

  it('refuses barrels, default exports, a missing opening comment and empty names', () => {
    expect(bannedFindings('src/model/a.ts', "export * from './b.ts'")).to.have.length(1)
    expect(bannedFindings('src/model/a.ts', 'export default 1')).to.have.length(1)
    expect(checkBanned([{ path: 'src/model/a.ts', text: 'export const a = 1\n' }])).to.have.length(1)
    expect(bannedFindings('src/model/chunk-helper.ts', '')).to.have.length(1)
    expect(bannedFindings('src/model/data.ts', '')).to.have.length(1)
    expect(bannedFindings('src/model/data-frames.ts', '')).to.deep.equal([])
  })
})
