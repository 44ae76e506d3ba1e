/**
 * The commands that run nodes: `up`, `meta`, `witness`, `storage`; and those that work on the data of a node that does not
 * run: `meta recover`, `storage inspect`, `storage rebuild-index`.
 *
 * `meta` is one command with two uses: with options it runs a node, with a word it is one of the commands on the
 * cluster's meta nodes (src/faces/cli/meta.ts).
 */

import type { Command } from 'commander'
import { closest } from '../base/suggest.ts'
import { checkEnvironment, loadConfig } from '../config/load.ts'
import { type ConfigOption, metaConfig, metaOptions, storageConfig, storageOptions } from '../config/schema.ts'
import { examples } from '../faces/cli/format.ts'
import { StoreError } from '../model/errors.ts'
import { quote } from '../model/names.ts'
import type { RecoverFlags } from './recover.ts'
import type { InspectFlags, RebuildFlags } from './storage-tools.ts'

/** Hidden flag of node commands: the node stops when its stdin closes, so that it never outlives `holdfast up`. */
const endWithStdin = 'end-with-stdin'
const stopAtLatestMs = 12_000

function camelCase(name: string): string {
  return name.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase())
}

interface NodeCommand {
  readonly options: readonly ConfigOption[]
  /** Options that are taken, so that a --config file may be shared, and not shown. */
  readonly hidden?: (option: ConfigOption) => boolean
  readonly run: (values: ReturnType<typeof loadConfig>) => Promise<void>
}

function makeNodeCommand(command: Command, { options, hidden, run }: NodeCommand): void {
  for (const option of options) {
    const fallback = option.fallback === undefined ? '' : ` (default: ${option.fallback})`
    const made = command.createOption(`--${option.name} <${option.value.toLowerCase()}>`, `${option.doc}${fallback}`)
    command.addOption(made.hideHelp(hidden?.(option) === true))
  }
  command.option('--config <file>', 'JSON file with the same names; flags and HOLDFAST_* variables win over it')
  command.addOption(command.createOption(`--${endWithStdin}`).hideHelp())
  command.action(async (given: Record<string, unknown>) => {
    checkWords(command)
    checkEnvironment([...metaOptions, ...storageOptions], process.env)
    const flags: Record<string, unknown> = {}
    for (const option of options) flags[option.name] = given[camelCase(option.name)]
    const file = typeof given['config'] === 'string' ? given['config'] : undefined
    const values = loadConfig(options, { flags, environment: process.env, file })
    if (given[camelCase(endWithStdin)] === true) stopWithStdin()
    await run(values)
  })
}

/** Throws USAGE for a word that is none of the command's own commands. */
function checkWords(command: Command): void {
  const [word] = command.args
  if (word === undefined) return
  const names = command.commands.map((one) => one.name())
  const suggestion = closest(word, names)
  const hint = suggestion === undefined ? '' : ` (did you mean ${suggestion}?)`
  const name = `${command.name()} ${word}`
  throw new StoreError('USAGE', `unknown command ${quote(name)}${hint}: see "holdfast ${command.name()} --help"`)
}

function stopWithStdin(): void {
  const stop = (): void => {
    setTimeout(() => process.exit(1), stopAtLatestMs).unref()
    process.kill(process.pid, 'SIGTERM')
  }
  process.stdin.once('end', stop).once('error', stop).resume()
}

function addUp(program: Command): void {
  program
    .command('up')
    .description('run a whole local cluster in the foreground, each node its own process; Ctrl-C stops it')
    .option('--dir <dir>', 'where its data is', './.holdfast')
    .option('--meta <n>', 'meta nodes: 1, 3 or 5 (default: 3)')
    .option('--witness', '2 meta nodes and a witness, which keeps no data')
    .option('--storage <n>', 'storage nodes (default: 4)')
    .option('--zones <n>', 'zones the storage nodes are spread over (default: 2)')
    .option('--port <n>', 'first port to try (default: 7400)')
    .option('--timeout <time>', 'most time to become ready (default: 60s)')
    .option('--json', 'when ready, print one JSON document on stdout: what cluster.json holds, and ready: true')
    .option('--verbose', 'show what caused an error')
    .action(async (given: Record<string, string | boolean | undefined>) => {
      const { json, verbose: _, ...flags } = given
      const { runUp } = await import('./up.ts')
      if (json === undefined) return runUp(flags, { say: (line) => process.stdout.write(`${line}\n`) })
      return runUp(flags, {
        say: (line) => process.stderr.write(`${line}\n`),
        onReady: (cluster) => process.stdout.write(`${JSON.stringify({ ready: true, ...cluster })}\n`),
      })
    })
}

function addMeta(program: Command): void {
  const meta = program.commands.find((command) => command.name() === 'meta') ?? program.command('meta')
  meta
    .description('run one meta node, or with a command: list, add, remove, recover meta nodes, hand leadership over')
    .enablePositionalOptions()
    .allowExcessArguments()
  makeNodeCommand(meta, {
    options: metaOptions,
    run: async (values) => {
      const { runMetaNode } = await import('./meta-node.ts')
      await runMetaNode(metaConfig(values))
    },
  })
  addRecover(meta)
}

function addRecover(meta: Command): void {
  meta
    .command('recover')
    .description('make a new cluster from the directory of one survivor, when the majority is gone for good')
    .option('--data <dir>', 'directory of the survivor, whose process does not run')
    .option('--id <m>', 'its name')
    .option('--yes', 'do it; without it only what is there and what would be lost is shown')
    .option('--json', 'print one JSON document on stdout')
    .option('--verbose', 'show what caused an error')
    .addHelpText('after', examples('holdfast meta recover --data /var/lib/holdfast/meta --id m2'))
    .action(async (flags: RecoverFlags) => {
      const { runRecover } = await import('./recover.ts')
      await runRecover(flags, (text) => process.stdout.write(`${text}\n`))
    })
}

function addStorage(program: Command): void {
  const storage = program.commands.find((command) => command.name() === 'storage') ?? program.command('storage')
  storage
    .description('run one storage node, or with a command: look at a disk of one that does not run, rebuild its index')
    .enablePositionalOptions()
    .allowExcessArguments()
  makeNodeCommand(storage, {
    options: storageOptions,
    run: async (values) => {
      const { runStorageNode } = await import('./storage-node.ts')
      await runStorageNode(storageConfig(values))
    },
  })
  storage
    .command('inspect <dir>')
    .description('show what is on a disk and whether it is sound, without changing it; its node does not run')
    .option('--deep', 'read and check all payloads; the default')
    .option('--no-payload', 'leave out the payloads of large chunks')
    .option('--chunk <id>', 'only this chunk')
    .option('--json', 'print one JSON document on stdout')
    .option('--verbose', 'show what caused an error')
    .addHelpText(
      'after',
      examples('holdfast storage inspect /var/lib/holdfast/disk1') +
        '\n\nExit codes: 0 sound, 6 damaged, 3 no disk there, 1 cannot be looked at.',
    )
    .action(async (dir: string, flags: InspectFlags) => {
      const { runInspect } = await import('./storage-tools.ts')
      await runInspect(dir, flags, (text) => process.stdout.write(`${text}\n`))
    })
  storage
    .command('rebuild-index <dir>')
    .description('make the index of a disk anew from its log; its node does not run')
    .option('--json', 'print one JSON document on stdout')
    .option('--verbose', 'show what caused an error')
    .addHelpText('after', examples('holdfast storage rebuild-index /var/lib/holdfast/disk1'))
    .action(async (dir: string, flags: RebuildFlags) => {
      const { runRebuildIndex } = await import('./storage-tools.ts')
      await runRebuildIndex(dir, flags, (text) => process.stdout.write(`${text}\n`))
    })
}

/** Adds `up`, `meta`, `witness` and `storage`. */
export function addNodeCommands(program: Command): void {
  addUp(program)
  addMeta(program)
  const witness = program
    .command('witness')
    .description('run a witness: beside exactly two meta nodes it votes, keeps no data and never leads')
  makeNodeCommand(witness, {
    options: metaOptions,
    hidden: (option) => option.leader === true,
    run: async (values) => {
      const { runMetaNode } = await import('./meta-node.ts')
      await runMetaNode(metaConfig(values, true))
    },
  })
  addStorage(program)
}
