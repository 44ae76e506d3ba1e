#!/usr/bin/env node
/**
 * `holdfast`: the command line as a process.
 *
 * Joins the commands of src/faces/cli with the drivers, and adds those that run nodes (node-commands.ts). What a command
 * does not need is loaded only when it runs, so that `--help` is quick.
 */

import { readFileSync } from 'node:fs'
import { runCli } from '../faces/cli/cli.ts'
import { reportError, type Surroundings } from '../faces/cli/context.ts'
import { asStoreError, StoreError } from '../model/errors.ts'
import { addNodeCommands } from './node-commands.ts'
import { readStdin, watchStdout, writeStdout } from './standard-streams.ts'

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
