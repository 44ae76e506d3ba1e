/**
 * What must not stand in our source: globals that reach around the ports, barrels, default exports, files that do not
 * say what they are, names that say nothing.
 *
 * Why the globals: one call of a real clock or of real randomness in a service makes the simulator's runs differ from
 * each other, and a failing seed stops being a bug report.
 */

import { codeOnly, type Finding, lineAt, type SourceFile } from './source.ts'

/** Folders whose code sees the world only through ports. */
const pureFolders = ['base', 'model', 'core', 'ports', 'services', 'sdk', 'sim'] as const

/** Globals that are not allowed there, with what to use instead. */
const bannedGlobals: Readonly<Record<string, string>> = {
  Date: 'take the time from the Clock port or an argument',
  setTimeout: 'use Clock.after',
  setInterval: 'use Clock.after',
  setImmediate: 'use an event',
  queueMicrotask: 'use a promise',
  performance: 'take the time from the Clock port',
  process: 'take it as configuration or through a port',
  console: 'use the Log port',
  Buffer: 'use Uint8Array',
  globalThis: 'take it as an argument',
}

/** Additionally banned in cores: they are synchronous. */
const bannedInCore: Readonly<Record<string, string>> = {
  Promise: 'a core is synchronous: return an effect',
  async: 'a core is synchronous: return an effect',
  await: 'a core is synchronous: return an effect',
  AbortController: 'a core does no waiting',
  AbortSignal: 'a core does no waiting',
}

/** Words that say nothing wherever they stand; `data` says something beside another word ("data-frames"). */
const emptyWords = /(^|-)(manager|helper|helpers|util|utils|info|master|slave|misc|common)(-|$)|^data$/

function folderOf(path: string): string | undefined {
  return /^src\/([^/]+)\//.exec(path)?.[1]
}

function checkGlobals(file: SourceFile, code: string, names: Readonly<Record<string, string>>): Finding[] {
  const findings: Finding[] = []
  for (const [name, instead] of Object.entries(names)) {
    // Not a property of something, not a property key, not a field of an interface.
    const pattern = new RegExp(`(?<![.\\w$#])${name}\\b(?!\\s*\\??:)`, 'g')
    for (const match of code.matchAll(pattern)) {
      const line = lineAt(code, match.index)
      findings.push({
        path: file.path,
        line,
        message: `"${name}" is not allowed in src/${folderOf(file.path)}: ${instead}`,
      })
    }
  }
  for (const match of code.matchAll(/\bMath\s*\.\s*random\b/g)) {
    const line = lineAt(code, match.index)
    findings.push({ path: file.path, line, message: '"Math.random" is not allowed here: use the Entropy port' })
  }
  return findings
}

function checkShape(file: SourceFile, code: string): Finding[] {
  const findings: Finding[] = []
  const add = (at: number, message: string): void => {
    findings.push({ path: file.path, line: lineAt(code, at), message })
  }
  if (!/^(#![^\n]*\n)?\s*(\/\*\*|\/\/)/.test(file.text)) {
    add(0, 'a source file opens with a comment: what it is, why it exists, its invariants')
  }
  for (const match of code.matchAll(/\bexport\s*\*/g))
    add(match.index, 'no barrels: import the file that has the thing')
  for (const match of code.matchAll(/\bexport\s+default\b/g)) add(match.index, 'no default exports: name it')
  for (const match of code.matchAll(/^\s*(?:export\s+)?(?:declare\s+)?(?:const\s+)?enum\s/gm)) {
    add(match.index, 'no enum: use a list of names `as const`')
  }
  const name = file.path.slice(file.path.lastIndexOf('/') + 1).replace(/\.ts$/, '')
  if (!/^[a-z0-9]+(-[a-z0-9]+)*(\.test)?$/.test(name)) add(0, 'file names are kebab-case')
  if (file.path.startsWith('src/')) {
    if (emptyWords.test(name)) add(0, `the file name "${name}" says nothing: name what is in it`)
    if (name === 'index' && file.path !== 'src/main/index.ts')
      add(0, 'no index files: only src/main/index.ts is a door')
  }
  for (const match of file.text.matchAll(/\b(TODO|FIXME|XXX|HACK)\b/g)) {
    if (!file.path.startsWith('tools/tidy/'))
      add(match.index, `"${match[1]}": finish it, or open an issue and say it there`)
  }
  return findings
}

/** Everything in `files` that breaks the rules above. */
export function checkBanned(files: readonly SourceFile[]): Finding[] {
  const findings: Finding[] = []
  for (const file of files) {
    const code = codeOnly(file.text, true)
    const folder = folderOf(file.path)
    if (pureFolders.some((pure) => pure === folder)) findings.push(...checkGlobals(file, code, bannedGlobals))
    if (folder === 'core') findings.push(...checkGlobals(file, code, bannedInCore))
    findings.push(...checkShape(file, code))
  }
  return findings
}
