/**
 * The tables of docs/TESTING.md are true: all 92 scenarios are in it, in order, each rule of the disk has a crash scenario, and
 * every test that it names exists.
 */

import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { expect } from 'chai'

const scenarios = 92

function root(): string {
  for (let at = import.meta.dirname; ; at = dirname(at)) {
    if (existsSync(join(at, 'docs/TESTING.md'))) return at
    if (dirname(at) === at) throw new Error('docs/TESTING.md is not above the tests')
  }
}

/** Rules of docs/RULES.md that are about the disk. */
const diskRules = ['3', '4', '5', '6', '7', '18']

interface Row {
  readonly number: number
  readonly text: string
  readonly references: readonly { readonly file: string; readonly title: string }[]
  /** What stands there instead of tests. */
  readonly reason: string
}

function rowsOf(markdown: string): Row[] {
  const rows: Row[] = []
  for (const match of markdown.matchAll(/^\| (\d+) \| ([^|]+) \| ([^|]+) \|$/gm)) {
    const [, number, text, covered] = match as unknown as [string, string, string, string]
    const references = [...covered.matchAll(/`([^`]+\.test\.ts)`: "([^"]+)"/g)].map((found) => ({
      file: found[1] as string,
      title: found[2] as string,
    }))
    rows.push({ number: Number(number), text, references, reason: references.length > 0 ? '' : covered })
  }
  return rows
}

describe('docs/TESTING.md: the map of the scenarios', () => {
  const rows = rowsOf(readFileSync(join(root(), 'docs/TESTING.md'), 'utf8'))

  it('has every scenario once, in order, with a text', () => {
    const numbers = rows.map((row) => row.number)
    expect(numbers).to.deep.equal(Array.from({ length: scenarios }, (_, i) => i + 1))
    for (const row of rows) expect(row.text.length, `scenario ${row.number}`).to.be.greaterThan(20)
  })

  it('names a test for each, or says why there is none', () => {
    for (const row of rows) {
      if (row.references.length === 0) expect(row.reason, `scenario ${row.number}`).to.match(/^not covered: .{20}/)
    }
  })

  it('has a crash scenario for each rule of the disk, and what else it names of the disk exists', () => {
    const section =
      /^## The disk\n([\s\S]*?)^## /m.exec(readFileSync(join(root(), 'docs/TESTING.md'), 'utf8'))?.[1] ?? ''
    const rules = [...section.matchAll(/^\| rule (\d+) \| [^|]+ \| ([^|]+) \|$/gm)].map(([, rule, cell]) => ({
      rule,
      cell,
    }))
    expect(rules.map(({ rule }) => rule)).to.deep.equal(diskRules)
    for (const { rule, cell } of rules) expect(cell).to.match(new RegExp(`\\(rules? [^)]*\\b${rule}\\b`))
    const named = [...section.matchAll(/`(test\/[^`]+\.ts)`: "([^"]+)"/g)]
    expect(named.length).to.be.greaterThan(20)
    for (const [, file, title] of named) {
      const path = join(root(), file as string)
      expect(existsSync(path) && readFileSync(path, 'utf8').includes(title as string), `${file}: ${title}`).to.equal(
        true,
      )
    }
  })

  it('names only tests that exist', () => {
    const missing: string[] = []
    for (const { number, references } of rows) {
      for (const { file, title } of references) {
        const path = join(root(), file)
        const source = existsSync(path) ? readFileSync(path, 'utf8').replaceAll("\\'", "'") : ''
        if (!source.includes(title)) missing.push(`${number}: ${file}: ${title}`)
      }
    }
    expect(missing).to.deep.equal([])
  })
})
