/**
 * Reading our own source for the tidy checks: which files there are, and what their text is with comments and the
 * insides of strings blanked out, so that a word in a comment is never taken for code.
 *
 * This is a scanner, not a parser: it knows comments, strings, templates and regular expressions, and keeps every
 * newline, so that line numbers in findings are right. It is exact for the code style of this project and is tested.
 */

import { readdir, readFile } from 'node:fs/promises'
import { join, relative, sep } from 'node:path'

/** One file: its path from the root of the repository with forward slashes, and its text. */
export interface SourceFile {
  readonly path: string
  readonly text: string
}

/** One thing that is wrong, for people. */
export interface Finding {
  readonly path: string
  readonly line: number
  readonly message: string
}

/** An `import`, `export ... from` or `import()` of a file. */
export interface ImportLine {
  readonly line: number
  readonly from: string
}

/** All TypeScript files below `folder`, sorted by path; generated code is left out. */
export async function readSources(root: string, folder: string): Promise<SourceFile[]> {
  const entries = await readdir(join(root, folder), { recursive: true, withFileTypes: true })
  const paths = entries
    .filter((entry) => entry.isFile() && /\.[cm]?ts$/.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .filter((path) => !path.includes('/gen/'))
    .sort()
  return await Promise.all(paths.map(async (path) => ({ path, text: await readFile(join(root, path), 'utf8') })))
}

/** True when a `/` after `before` starts a regular expression and not a division. */
function startsRegex(before: string): boolean {
  const trimmed = before.trimEnd()
  if (trimmed === '') return true
  if (/[\w$)\]]$/.test(trimmed)) return /\b(return|typeof|case|in|of|void|yield|await)$/.test(trimmed)
  return true
}

/** Index after the string, template or regular expression that starts at `at`. */
function endOfQuoted(text: string, at: number): number {
  const quote = text[at]
  let inClass = false
  for (let i = at + 1; i < text.length; i++) {
    const char = text[i]
    if (char === '\\') i++
    else if (quote === '/' && char === '[') inClass = true
    else if (quote === '/' && char === ']') inClass = false
    else if (char === quote && !inClass) return i + 1
    else if (quote === '`' && char === '$' && text[i + 1] === '{') i = endOfHole(text, i + 2) - 1
    else if (quote !== '`' && char === '\n') return i
  }
  return text.length
}

/** Index after the `}` that closes the template hole whose code starts at `at`. */
function endOfHole(text: string, at: number): number {
  let depth = 1
  for (let i = at; i < text.length; i++) {
    const char = text[i] as string
    if (char === '{') depth++
    else if (char === '}' && --depth === 0) return i + 1
    else if (char === "'" || char === '"' || char === '`') i = endOfQuoted(text, i) - 1
  }
  return text.length
}

function blank(text: string): string {
  return text.replace(/[^\n]/g, ' ')
}

/** The text with comments blanked; with `strings` also the insides of strings, templates and regular expressions. */
export function codeOnly(text: string, strings: boolean): string {
  let out = ''
  let at = 0
  while (at < text.length) {
    const char = text[at] as string
    let end = at + 1
    let replaced: string | undefined
    if (char === '/' && text[at + 1] === '/') {
      const newline = text.indexOf('\n', at)
      end = newline < 0 ? text.length : newline
      replaced = blank(text.slice(at, end))
    } else if (char === '/' && text[at + 1] === '*') {
      const close = text.indexOf('*/', at + 2)
      end = close < 0 ? text.length : close + 2
      replaced = blank(text.slice(at, end))
    } else if (char === '`' && strings) {
      end = endOfQuoted(text, at)
      replaced = templateCode(text.slice(at, end))
    } else if (char === "'" || char === '"' || char === '`' || (char === '/' && startsRegex(out))) {
      end = endOfQuoted(text, at)
      const inside = text.slice(at + 1, end - 1)
      replaced = strings ? `${char}${blank(inside)}${char}` : text.slice(at, end)
    }
    out += replaced ?? char
    at = end
  }
  return out
}

/** A template literal with its text blanked and the code of its holes kept. */
function templateCode(template: string): string {
  let out = '`'
  let at = 1
  while (at < template.length - 1) {
    if (template[at] === '\\') {
      out += '  '
      at += 2
    } else if (template[at] === '$' && template[at + 1] === '{') {
      const end = endOfHole(template, at + 2)
      out += `  ${codeOnly(template.slice(at + 2, end - 1), true)} `
      at = end
    } else {
      out += blank(template[at] as string)
      at++
    }
  }
  return `${out}\``
}

/** Line number, from 1, of the character at `at`. */
export function lineAt(text: string, at: number): number {
  let line = 1
  for (let i = 0; i < at; i++) if (text[i] === '\n') line++
  return line
}

/** Every import of the file, type imports and dynamic ones included. */
export function importsOf(text: string): ImportLine[] {
  const code = codeOnly(text, false)
  const pattern = /\bfrom\s*(['"])([^'"\n]+)\1|\bimport\s*\(?\s*(['"])([^'"\n]+)\3/g
  return [...code.matchAll(pattern)].map((match) => ({
    line: lineAt(code, match.index),
    from: (match[2] ?? match[4]) as string,
  }))
}
