#!/usr/bin/env node
/**
 * `holdfast`: the command line as a process.
 *
 * Joins the commands of src/faces/cli with the drivers, and adds those that run nodes: `up`, `meta`, `storage`. What a
 * command does not need is loaded only when it runs, so that `--help` is quick.
 */

import { readFileSync } from 'node:fs'
import type { Command } from 'commander'
import { checkEnvironment, loadConfig } from '../config/load.ts'
import { type ConfigOption, metaConfig, metaOptions, storageConfig, storageOptions } from '../config/schema.ts'
import { runCli } from '../faces/cli/cli.ts'
import { reportError, type Surroundings } from '../faces/cli/context.ts'
import { asStoreError, StoreError } from '../model/errors.ts'
import { readStdin, watchStdout, writeStdout } from './standard-streams.ts'

/** Hidden flag of node commands: the node stops when its stdin closes, so that it never outlives `holdfast up`. */
const endWithStdin = 'end-with-stdin'
const stopAtLatestMs = 12_000

function camelCase(name: string): string {
  return name.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase())
}

function addNodeCommand(
  program: Command,
  name: string,
  description: string,
  options: readonly ConfigOption[],
  run: (values: ReturnType<typeof loadConfig>) => Promise<void>,
): void {
  const command = program.command(name).description(description)
  for (const option of options) {
    const fallback = option.fallback === undefined ? '' : ` (default: ${option.fallback})`
    command.option(`--${option.name} <${option.value.toLowerCase()}>`, `${option.doc}${fallback}`)
  }
  command.option('--config <file>', 'JSON file with the same names; flags and HOLDFAST_* variables win over it')
  command.addOption(command.createOption(`--${endWithStdin}`).hideHelp())
  command.action(async (given: Record<string, unknown>) => {
    checkEnvironment([...metaOptions, ...storageOptions], process.env)
    const flags: Record<string, unknown> = {}
    for (const option of options) flags[option.name] = given[camelCase(option.name)]
    const file = typeof given['config'] === 'string' ? given['config'] : undefined
    const values = loadConfig(options, { flags, environment: process.env, file })
    if (given[camelCase(endWithStdin)] === true) stopWithStdin()
    await run(values)
  })
}

function stopWithStdin(): void {
  const stop = (): void => {
    setTimeout(() => process.exit(1), stopAtLatestMs).unref()
    process.kill(process.pid, 'SIGTERM')
  }
  process.stdin.once('end', stop).once('error', stop).resume()
}

function addNodeCommands(program: Command): void {
  program
    .command('up')
    .description('run a whole local cluster in the foreground, each node its own process; Ctrl-C stops it')
    .option('--dir <dir>', 'where its data is', './.holdfast')
    .option('--meta <n>', 'meta nodes: 1, 3 or 5 (default: 3)')
    .option('--storage <n>', 'storage nodes (default: 4)')
    .option('--zones <n>', 'zones the storage nodes are spread over (default: 2)')
    .option('--port <n>', 'first port to try (default: 7400)')
    .option('--timeout <time>', 'most time to become ready (default: 60s)')
    .option('--json', 'when ready, print one JSON document on stdout: what cluster.json holds, and ready: true')
    .option('--verbose', 'show what caused an error')
    .action(async (given: Record<string, string | undefined> & { json?: unknown; verbose?: unknown }) => {
      const { json, verbose: _, ...flags } = given
      const { runUp } = await import('./up.ts')
      if (json === undefined) return runUp(flags, { say: (line) => process.stdout.write(`${line}\n`) })
      return runUp(flags, {
        say: (line) => process.stderr.write(`${line}\n`),
        onReady: (cluster) => process.stdout.write(`${JSON.stringify({ ready: true, ...cluster })}\n`),
      })
    })
  addNodeCommand(program, 'meta', 'run one meta node', metaOptions, async (values) => {
    const { runMetaNode } = await import('./meta-node.ts')
    await runMetaNode(metaConfig(values))
  })
  addNodeCommand(program, 'storage', 'run one storage node', storageOptions, async (values) => {
    const { runStorageNode } = await import('./storage-node.ts')
    await runStorageNode(storageConfig(values))
  })
}

/** Version of the package this file belongs to. */
function packageVersion(): string {
  for (const path of ['../../../package.json', '../../../../package.json']) {
    try {
      const parsed = JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8')) as {
        name?: string
        version?: string
      }
      if (parsed.name === 'holdfast' && parsed.version !== undefined) return parsed.version
    } catch {
      // looked for one directory further up
    }
  }
  return '0.0.0'
}

function processSurroundings(): Surroundings {
  return {
    connect: async (options) => {
      const { connect } = await import('./index.ts')
      return connect(options)
    },
    stdout: process.stdout,
    stderr: process.stderr,
    stdin: readStdin(),
    writeOut: writeStdout,
    onInterrupt: (handler) => {
      let times = 0
      const on = (exitCode: number) => (): void => {
        times++
        if (times > 1) process.exit(exitCode)
        handler(exitCode)
      }
      const onInt = on(130)
      const onTerm = on(143)
      process.on('SIGINT', onInt).on('SIGTERM', onTerm)
      return () => {
        process.off('SIGINT', onInt).off('SIGTERM', onTerm)
      }
    },
  }
}

async function main(): Promise<void> {
  const bug = (error: unknown): void => {
    const failure = asStoreError(error, 'bug in Holdfast, please report it')
    const trace = error instanceof Error ? new StoreError(failure.code, failure.message, { cause: error }) : failure
    process.exit(reportError({ stderr: process.stderr }, trace, true))
  }
  process.on('uncaughtException', bug).on('unhandledRejection', bug)
  watchStdout()
  const code = await runCli(process.argv.slice(2), processSurroundings(), {
    version: packageVersion(),
    extend: addNodeCommands,
  })
  process.stdout.write('', () => process.exit(code))
}

await main()
