/**
 * The layer rule: who may import whom, as a table, checked on every import of `src` (type imports count).
 *
 * The table is the one of docs/ARCHITECTURE.md, "Layers". Lower layers know nothing of higher ones; services and cores
 * never see a driver; only `src/main` joins drivers with services. That is what lets the simulator put another world
 * behind the ports, so an import that breaks it is an error, never a warning.
 */

import { posix } from 'node:path'
import { type Finding, importsOf, type SourceFile } from './source.ts'

/** One row: what a folder of `src` may import. */
export interface Layer {
  /** Other folders of `src`. An entry with a slash is a path prefix, so that `config/types.ts` can be allowed alone. */
  readonly folders: readonly string[]
  /** Packages, by name; `node:*` stands for Node's own modules. */
  readonly packages: readonly string[]
  /** Paths that are forbidden although a row above allows their folder. */
  readonly except?: readonly string[]
}

const ground = ['base', 'model', 'ports', 'core', 'wire']

export const layers: Readonly<Record<string, Layer>> = {
  base: { folders: [], packages: [] },
  model: { folders: ['base'], packages: [], except: ['base/async/'] },
  ports: { folders: ['base', 'model'], packages: [], except: ['base/async/'] },
  core: { folders: ['base', 'model'], packages: [], except: ['base/async/'] },
  wire: { folders: ['base', 'model', 'ports'], packages: ['protobufjs'] },
  config: { folders: ['base', 'model'], packages: ['node:*'] },
  services: { folders: [...ground, 'config/types.ts'], packages: [] },
  sdk: { folders: [...ground, 'config/types.ts'], packages: [] },
  drivers: {
    folders: ['base', 'model', 'ports', 'wire', 'config/types.ts'],
    packages: [
      'node:*',
      'level',
      '@grpc/grpc-js',
      '@grpc/reflection',
      '@grpc/proto-loader',
      'grpc-health-check',
      'xxhash-wasm',
      'protobufjs',
    ],
  },
  sim: { folders: [...ground, 'config/types.ts', 'services', 'sdk'], packages: [] },
  faces: { folders: ['base', 'model', 'ports', 'config', 'sdk'], packages: ['node:*', 'commander'] },
  main: {
    folders: [...ground, 'config', 'services', 'sdk', 'drivers', 'faces'],
    packages: ['node:*', 'commander'],
  },
}

/** `src/core/raft/log.ts` -> `core`; undefined for a file that is not in a folder of `src`. */
function layerOf(path: string): string | undefined {
  const match = /^src\/([^/]+)\//.exec(path)
  return match?.[1]
}

/** `level/x` -> `level`, `@grpc/grpc-js/y` -> `@grpc/grpc-js`, `node:fs` -> `node:*`. */
function packageOf(specifier: string): string {
  if (specifier.startsWith('node:')) return 'node:*'
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/')
}

/** What is wrong with `specifier` in the file at `path`, or undefined. */
function judge(path: string, name: string, layer: Layer, specifier: string): string | undefined {
  if (!specifier.startsWith('.')) {
    const wanted = packageOf(specifier)
    if (layer.packages.includes(wanted)) return undefined
    const may = layer.packages.length === 0 ? 'no package at all' : `only ${layer.packages.join(', ')}`
    return `src/${name} may use ${may}, not "${specifier}": reach the outside world through a port`
  }
  if (!specifier.endsWith('.ts') && !specifier.includes('/gen/')) return `import "${specifier}" must end in .ts`
  const target = posix.normalize(posix.join(posix.dirname(path), specifier))
  if (!target.startsWith('src/')) return `src may not import "${target}": nothing in src knows tests or tools`
  const inside = target.slice('src/'.length)
  const allowed = [`${name}/`, ...layer.folders.map((folder) => (folder.endsWith('.ts') ? folder : `${folder}/`))]
  const forbidden = layer.except?.some((prefix) => inside.startsWith(prefix)) ?? false
  if (!forbidden && allowed.some((prefix) => inside.startsWith(prefix))) return undefined
  const folders = [name, ...layer.folders].join(', ')
  return `src/${name} may import ${folders}, not "${target}": move the code down or pass it in from above`
}

/** Everything in `files` that breaks the table. */
export function checkLayers(files: readonly SourceFile[]): Finding[] {
  const findings: Finding[] = []
  for (const file of files) {
    const name = layerOf(file.path)
    const layer = name === undefined ? undefined : layers[name]
    if (name === undefined || layer === undefined) {
      findings.push({
        path: file.path,
        line: 1,
        message: 'this folder is not in the layer table: put the file in a layer',
      })
      continue
    }
    for (const imported of importsOf(file.text)) {
      const message = judge(file.path, name, layer, imported.from)
      if (message !== undefined) findings.push({ path: file.path, line: imported.line, message })
    }
  }
  return findings
}
