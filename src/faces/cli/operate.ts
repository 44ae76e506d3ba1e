/**
 * `quota`, `upgrade`, `deletes`: what operators decide about the whole cluster. What cannot be taken back is shown first
 * and refused without --yes.
 */

import type { Command } from 'commander'
import { StoreError } from '../../model/errors.ts'
import { quote } from '../../model/names.ts'
import type { DeletesStatus, QuotaEntry, VersionStatus } from '../../sdk/types.ts'
import { type CommonOptions, type Run, runWithStore, type Surroundings, withCommon } from './context.ts'
import { examples, plural, showBytes, table } from './format.ts'

const sizeUnits: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
  TiB: 1024 ** 4,
  PiB: 1024 ** 5,
}

/** `10GiB` in bytes, `none` as 0. Throws USAGE. */
export function parseSize(text: string, option: string): number {
  if (text === 'none') return 0
  const match = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(text)
  const value = match === null ? Number.NaN : Number(match[1]) * (sizeUnits[match[2] ?? ''] ?? Number.NaN)
  if (!Number.isSafeInteger(value)) {
    throw new StoreError('USAGE', `${option} ${quote(text)} is not a size: write for example 500MiB, 10GiB or none`)
  }
  return value
}

function parseCount(text: string, option: string): number {
  if (text === 'none') return 0
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN
  if (Number.isNaN(value)) {
    throw new StoreError('USAGE', `${option} ${quote(text)} is not a count: write for example 1000000 or none`)
  }
  return value
}

function showQuotas(quotas: readonly QuotaEntry[]): string {
  const rows = quotas.map(({ bucket, bytes, bytesMax, objects, objectsMax }) => [
    bucket ?? '(cluster)',
    showBytes(bytes),
    bytesMax === 0 ? '-' : showBytes(bytesMax),
    String(objects),
    objectsMax === 0 ? '-' : String(objectsMax),
  ])
  return table(['BUCKET', 'BYTES', 'AT MOST', 'OBJECTS', 'AT MOST'], rows, ['BYTES', 'AT MOST', 'OBJECTS'])
}

interface QuotaFlags extends CommonOptions {
  readonly cluster?: boolean
  readonly bytes?: string
  readonly objects?: string
}

async function setQuota(run: Run, named: string | undefined, flags: QuotaFlags): Promise<void> {
  if ((named === undefined) !== (flags.cluster === true)) {
    throw new StoreError('USAGE', 'a quota is for a bucket or for the cluster: name a bucket or give --cluster')
  }
  if (flags.bytes === undefined && flags.objects === undefined) {
    throw new StoreError('USAGE', 'no bound is given: give --bytes SIZE, --objects N, or both ("none" removes one)')
  }
  const bytes = flags.bytes === undefined ? undefined : parseSize(flags.bytes, '--bytes')
  const objects = flags.objects === undefined ? undefined : parseCount(flags.objects, '--objects')
  const bucket = named ?? null
  const before = await findQuota(run, bucket)
  const bounds = { bytesMax: bytes ?? before?.bytesMax, objectsMax: objects ?? before?.objectsMax }
  await run.store.admin.quotas.set(bucket, bounds, run.limits)
  const after = await findQuota(run, bucket)
  run.result(after ?? { bucket, ...bounds }, after === undefined ? 'no bound is left' : showQuotas([after]))
}

async function findQuota(run: Run, bucket: string | null): Promise<QuotaEntry | undefined> {
  return (await run.store.admin.quotas.list(run.limits)).find((quota) => quota.bucket === bucket)
}

function addQuota(program: Command, surroundings: Surroundings): void {
  const quota = program.command('quota').description('bounds on what a bucket or the cluster holds')
  withCommon(quota.command('ls'))
    .description('list quotas and what counts against them (one copy of each object)')
    .action((flags: CommonOptions) =>
      runWithStore(surroundings, flags, async (run) => {
        const quotas = await run.store.admin.quotas.list(run.limits)
        run.result(quotas, showQuotas(quotas))
      }),
    )
  withCommon(quota.command('set [bucket]'))
    .description('bound a bucket, or with --cluster everything together; what is not named stays as it is')
    .option('--cluster', 'the whole cluster instead of a bucket')
    .option('--bytes <size>', 'most bytes, for example 10GiB; "none": no bound')
    .option('--objects <n>', 'most objects; "none": no bound')
    .addHelpText(
      'after',
      examples(
        'holdfast quota set photos --bytes 500GiB',
        'holdfast quota set --cluster --objects 10000000 --bytes none',
      ),
    )
    .action((bucket: string | undefined, flags: QuotaFlags) =>
      runWithStore(surroundings, flags, (run) => setQuota(run, bucket, flags)),
    )
}

/** What may be done about the version, in a sentence. */
function adviseVersion({ version, possible, nodes }: VersionStatus): string {
  if (possible > version) {
    return `every node supports version ${possible}: "holdfast upgrade --yes" puts it in force. There is no way back: programs that support less do not start any more.`
  }
  const unheard = nodes.filter((node) => node.versionMax === 0).map((node) => node.id)
  if (unheard.length > 0)
    return `what ${unheard.join(', ')} supports is not known: start what does not run and ask again`
  return 'it is the highest that every node supports: nothing to do'
}

function showVersions(status: VersionStatus): string {
  const rows = status.nodes.map(({ id, kind, versionMax }) => [id, kind, versionMax === 0 ? '?' : String(versionMax)])
  const nodes = table(['NODE', 'KIND', 'SUPPORTS'], rows, ['SUPPORTS'])
  return `version ${status.version} is in force; ${adviseVersion(status)}\n\n${nodes}`
}

function addUpgrade(program: Command, surroundings: Surroundings): void {
  withCommon(program.command('upgrade'))
    .description('show which version of commands and formats is in force; with --yes put the highest possible in force')
    .option('--yes', 'raise it; there is no way back')
    .addHelpText(
      'after',
      examples('holdfast upgrade         # after every node runs the new program', 'holdfast upgrade --yes'),
    )
    .action((flags: CommonOptions & { yes?: boolean }) =>
      runWithStore(surroundings, flags, async (run) => {
        const before = await run.store.admin.version.status(run.limits)
        if (flags.yes === true && before.possible === 0) {
          throw new StoreError('CONDITION_FAILED', `not done: version ${before.version}: ${adviseVersion(before)}`)
        }
        const status =
          flags.yes === true && before.possible > before.version
            ? await run.store.admin.version.raise(undefined, run.limits)
            : before
        const raised = status.version > before.version
        run.result(
          { ...status, raised },
          raised ? `raised from version ${before.version} to ${status.version}` : showVersions(status),
        )
      }),
    )
}

function showDeletes({ held, incarnation, unknownReplicas }: DeletesStatus): string {
  if (!held) return 'deletes go on as usual'
  const unknown = plural(unknownReplicas, 'replica')
  return `deletes are held since the metadata was recovered (incarnation ${incarnation}): ${unknown} on disks that the metadata does not know, as far as reports came in`
}

function addDeletes(program: Command, surroundings: Surroundings): void {
  const deletes = program.command('deletes').description('physical deletes, which are held after "meta recover"')
  withCommon(deletes.command('status'))
    .description('say whether deletes are held, and what they hold back')
    .action((flags: CommonOptions) =>
      runWithStore(surroundings, flags, async (run) => {
        const status = await run.store.admin.deletes.status(run.limits)
        run.result(status, showDeletes(status))
      }),
    )
  withCommon(deletes.command('resume'))
    .description('let deletes go on; what the metadata does not know is then deleted for good')
    .option('--yes', 'do it')
    .addHelpText('after', examples('holdfast deletes status', 'holdfast deletes resume --yes'))
    .action((flags: CommonOptions & { yes?: boolean }) =>
      runWithStore(surroundings, flags, async (run) => {
        const before = await run.store.admin.deletes.status(run.limits)
        if (before.held && flags.yes !== true) {
          throw new StoreError(
            'CONDITION_FAILED',
            `not done: ${showDeletes(before)}: when you need nothing of them, give --yes and they are deleted for good`,
          )
        }
        const status = before.held ? await run.store.admin.deletes.resume(run.limits) : before
        run.result(status, showDeletes(status))
      }),
    )
}

/** Adds `quota`, `upgrade` and `deletes`. */
export function addOperateCommands(program: Command, surroundings: Surroundings): void {
  addQuota(program, surroundings)
  addUpgrade(program, surroundings)
  addDeletes(program, surroundings)
}
