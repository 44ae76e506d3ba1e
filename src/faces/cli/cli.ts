/**
 * The command line: parses, runs one command and gives its exit code.
 *
 * The composition root adds what a face may not know (node commands, drivers) through `Surroundings` and `extend`.
 */

import { Command, CommanderError } from 'commander'
import { closest } from '../../base/suggest.ts'
import { StoreError } from '../../model/errors.ts'
import { quote } from '../../model/names.ts'
import { addChunkCommands } from './chunks.ts'
import { reportError, type Surroundings } from './context.ts'
import { addMetaCommands } from './meta.ts'
import { addObjectCommands } from './objects.ts'
import { addOperateCommands } from './operate.ts'
import { addScrubCommands } from './scrub.ts'
import { addStatusCommands } from './status.ts'

export interface CliOptions {
  readonly version: string
  /** Adds further commands. */
  readonly extend?: (program: Command) => void
}

function usageError(error: CommanderError): StoreError {
  const message = error.message
    .replace(/^error: /, '')
    .replace(/\n\(Did you mean (.*?)\)/s, ' (did you mean $1)')
    .trim()
  return new StoreError('USAGE', `${message}: see "holdfast --help"`)
}

/**
 * Throws USAGE when help is asked for a command that does not exist. The parser would print the help of the command above
 * it and succeed, and a script would take that for a yes.
 */
function checkHelpTarget(program: Command, args: readonly string[]): void {
  const end = args.indexOf('--')
  const words = end < 0 ? args : args.slice(0, end)
  if (words[0] !== 'help' && !words.includes('--help') && !words.includes('-h')) return
  let command = program
  let isValue = false
  for (const word of words) {
    if (command.commands.length === 0) return
    const skip = isValue || word === 'help' || word.startsWith('-')
    isValue = !isValue && command.options.some((option) => option.required && option.long === word)
    if (skip) continue
    const next = command.commands.find((one) => one.name() === word || one.aliases().includes(word))
    if (next === undefined) {
      const name = command === program ? '' : `${command.name()} `
      const suggestion = closest(
        word,
        command.commands.map((one) => one.name()),
      )
      const hint = suggestion === undefined ? '' : ` (did you mean ${suggestion}?)`
      throw new StoreError('USAGE', `unknown command ${quote(name + word)}${hint}: see "holdfast ${name}--help"`)
    }
    command = next
  }
}

/** Runs `args` (without node and script); resolves to the exit code and never rejects. */
export async function runCli(
  args: readonly string[],
  surroundings: Surroundings,
  options: CliOptions,
): Promise<number> {
  const program = new Command('holdfast')
    .description('a replicated object store: stores with copies, verifies what it reads, repairs what it loses')
    .version(options.version, '--version', 'print the version')
    .showSuggestionAfterError(true)
    // What follows a command's name is that command's own, also two levels down ("meta recover --data").
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: (text) => {
        surroundings.stdout.write(text)
      },
      writeErr: (text) => {
        surroundings.stderr.write(text)
      },
      // One line by our own rules is printed instead.
      outputError: () => undefined,
    })
  addObjectCommands(program, surroundings)
  addChunkCommands(program, surroundings)
  addStatusCommands(program, surroundings)
  addMetaCommands(program, surroundings)
  addOperateCommands(program, surroundings)
  addScrubCommands(program, surroundings)
  options.extend?.(program)
  const verbose = args.includes('--verbose')
  try {
    checkHelpTarget(program, args)
    await program.parseAsync(args, { from: 'user' })
    return 0
  } catch (error) {
    if (!(error instanceof CommanderError)) return reportError(surroundings, error, verbose)
    if (error.exitCode === 0) return 0
    // `holdfast` or `holdfast chunk` alone: the help was printed.
    if (error.code === 'commander.help') return 2
    return reportError(surroundings, usageError(error), verbose)
  }
}
