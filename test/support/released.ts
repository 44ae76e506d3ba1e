/**
 * The released build of version 0.1.0, unpacked inside this checkout so that it finds the same node_modules: the other side
 * of every test of an upgrade.
 */

import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { gunzipSync } from 'node:zlib'
import type { connect } from '../../src/main/index.ts'

export interface Release {
  /** Its command line. */
  readonly cli: string
  /** `connect` of its SDK. */
  readonly connect: typeof connect
}

/** The checkout: the nearest directory above this file that has node_modules. */
function checkout(): string {
  for (let at = import.meta.dirname; ; at = dirname(at)) {
    if (existsSync(join(at, 'node_modules'))) return at
    if (dirname(at) === at) throw new Error('no node_modules above the tests')
  }
}

/** Plain files of a tar archive as npm packs them: ustar headers, names of at most 255 bytes. */
function* filesOf(tar: Buffer): Generator<{ readonly name: string; readonly bytes: Buffer }> {
  const text = (from: number, length: number): string => tar.toString('utf8', from, from + length).replace(/\0.*$/s, '')
  for (let at = 0; at + 512 <= tar.length && tar[at] !== 0; ) {
    const size = Number.parseInt(text(at + 124, 12), 8)
    const type = text(at + 156, 1)
    const prefix = text(at + 345, 155)
    const name = prefix === '' ? text(at, 100) : `${prefix}/${text(at, 100)}`
    if (type === '0' || type === '') yield { name, bytes: tar.subarray(at + 512, at + 512 + size) }
    else if (type !== '5') throw new Error(`${name} in the archive is neither a file nor a directory`)
    at += 512 + Math.ceil(size / 512) * 512
  }
}

/** Unpacks test/fixtures/holdfast-0.1.0.tgz, once. */
export async function release010(): Promise<Release> {
  const root = checkout()
  const packed = await readFile(join(root, 'test/fixtures/holdfast-0.1.0.tgz'))
  const sum = createHash('sha256').update(packed).digest('hex').slice(0, 12)
  const home = join(root, '.build', `v1-${sum}`)
  if (!existsSync(home)) {
    await mkdir(dirname(home), { recursive: true })
    const half = await mkdtemp(`${home}-`)
    for (const { name, bytes } of filesOf(gunzipSync(packed))) {
      await mkdir(dirname(join(half, name)), { recursive: true })
      await writeFile(join(half, name), bytes)
    }
    // Another run may have been faster.
    await rename(half, home).catch(async () => await rm(half, { recursive: true, force: true }))
  }
  const sdk = pathToFileURL(join(home, 'package/dist/src/main/index.js')).href
  const loaded = (await import(sdk)) as { connect: typeof connect }
  return { cli: join(home, 'package/dist/src/main/cli.js'), connect: loaded.connect }
}
