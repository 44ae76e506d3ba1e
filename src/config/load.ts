/**
 * Where configuration comes from: flags over environment over a JSON file over defaults, each value checked by the schema.
 *
 * Invariant: a key that the schema does not know is an error with a suggestion, wherever it was written: a setting that
 * silently does nothing is worse than a refusal.
 */

import { readFileSync } from 'node:fs'
import { closest } from '../base/suggest.ts'
import { StoreError } from '../model/errors.ts'
import { type ConfigOption, type ConfigValues, parseOption } from './schema.ts'

const environmentPrefix = 'HOLDFAST_'
/** Variables with the prefix that are no node options. */
const otherVariables = ['HOLDFAST_META']

export interface ConfigSources {
  /** Flags that were given, by option name. */
  readonly flags: Readonly<Record<string, unknown>>
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Path of the --config file, when given. */
  readonly file?: string | undefined
}

/** `gc-grace` as the environment spells it. */
export function environmentName(option: string): string {
  return environmentPrefix + option.toUpperCase().replaceAll('-', '_')
}

/** All values of the options, in base units. Throws USAGE for unknown keys and bad values, IO for an unreadable file. */
export function loadConfig(options: readonly ConfigOption[], sources: ConfigSources): ConfigValues {
  const byName = new Map(options.map((option) => [option.name, option]))
  const values: Record<string, string | number | readonly string[]> = {}
  const set = (name: string, written: unknown, source: string, known: Iterable<string>): void => {
    const option = byName.get(name)
    if (option === undefined) throw unknownKey(name, source, known)
    values[name] = parseOption(option, written, source)
  }
  for (const option of options) {
    if (option.fallback !== undefined) set(option.name, option.fallback, 'default', byName.keys())
  }
  if (sources.file !== undefined) {
    for (const [name, written] of Object.entries(readConfigFile(sources.file)))
      set(name, written, sources.file, byName.keys())
  }
  for (const option of options) {
    const written = sources.environment[environmentName(option.name)]
    if (written !== undefined && written !== '') set(option.name, written, environmentName(option.name), byName.keys())
  }
  for (const [name, written] of Object.entries(sources.flags)) {
    if (written !== undefined) set(name, written, `--${name}`, byName.keys())
  }
  for (const option of options) {
    if (option.required === true && values[option.name] === undefined) {
      throw new StoreError(
        'USAGE',
        `${option.name} is missing: give --${option.name} ${option.value}, ${environmentName(option.name)} or "${option.name}" in the --config file`,
      )
    }
  }
  return values
}

/**
 * Refuses HOLDFAST_ variables that look like a misspelt option. Others are let pass: Kubernetes, for one, sets variables
 * of that form for a service of our name. Throws USAGE.
 */
export function checkEnvironment(
  options: readonly ConfigOption[],
  environment: Readonly<Record<string, string | undefined>>,
): void {
  const known = [...new Set([...options.map((option) => environmentName(option.name)), ...otherVariables])]
  for (const name of Object.keys(environment).sort()) {
    if (!name.startsWith(environmentPrefix) || known.includes(name)) continue
    const wanted = name.slice(environmentPrefix.length)
    const near = closest(
      wanted,
      known.map((one) => one.slice(environmentPrefix.length)),
    )
    if (near !== undefined) throw unknownKey(name, 'environment', [environmentPrefix + near])
  }
}

function unknownKey(name: string, source: string, known: Iterable<string>): StoreError {
  const near = closest(name, known)
  const hint = near === undefined ? '' : `: did you mean ${near}?`
  return new StoreError('USAGE', `${source}: unknown key ${JSON.stringify(name)}${hint}`)
}

function readConfigFile(path: string): Record<string, unknown> {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new StoreError('IO', `read the configuration ${path}: ${(error as Error).message}`, {
      cause: error,
      outcome: 'definite',
    })
  }
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch (error) {
    throw new StoreError('USAGE', `the configuration ${path} is not JSON: ${(error as Error).message}`, {
      cause: error,
    })
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new StoreError('USAGE', `the configuration ${path} is not one JSON object`)
  }
  return parsed as Record<string, unknown>
}
