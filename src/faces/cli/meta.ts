/**
 * `meta ls|add|remove|transfer`: who keeps the metadata. A change that leaves no node to spare is refused without --yes.
 *
 * The composition root adds to the same command what a face may not know: to run a node, and to recover one's data.
 */

import type { Command } from 'commander'
import { StoreError } from '../../model/errors.ts'
import { majority } from '../../model/limits.ts'
import { quote } from '../../model/names.ts'
import type { StatusMeta } from '../../sdk/types.ts'
import { type CommonOptions, type Run, runWithStore, type Surroundings, withCommon } from './context.ts'
import { examples, plural, table } from './format.ts'

/** The meta nodes as a table. */
export function showMeta(nodes: readonly StatusMeta[]): string {
  const rows = nodes.map((node) => [
    node.id,
    node.role,
    node.reachable ? 'yes' : 'NO',
    node.address,
    String(node.term),
    String(node.applied),
    node.versionMax === 0 ? '?' : String(node.versionMax),
    node.lowSpace ? 'low space' : '',
  ])
  const header = ['META', 'ROLE', 'REACHABLE', 'ADDRESS', 'TERM', 'APPLIED', 'SUPPORTS', 'NOTES']
  return table(header, rows, ['TERM', 'APPLIED', 'SUPPORTS'])
}

/** `m4=10.0.0.4:7400` in its parts; the SDK checks both. Throws USAGE. */
function parseMember(text: string): { id: string; address: string } {
  const at = text.indexOf('=')
  if (at < 1) throw new StoreError('USAGE', `${quote(text)} is not ID=HOST:PORT: write for example m4=10.0.0.4:7400`)
  return { id: text.slice(0, at), address: text.slice(at + 1) }
}

function catchingUp(id: string, members: readonly StatusMeta[]): string {
  const has = members.find((member) => member.id === id)?.applied ?? 0
  const wanted = Math.max(0, ...members.map((member) => member.applied))
  return `${id} is a learner and catches up: entry ${has} of ${wanted}`
}

async function addMember(run: Run, text: string): Promise<void> {
  const { id, address } = parseMember(text)
  let waiting = ''
  for (;;) {
    let added
    try {
      added = await run.store.admin.meta.add(id, address, run.limits)
    } catch (error) {
      if (waiting === '' || !run.limits.signal.aborted) throw error
      throw new StoreError('TIMEOUT', `${waiting}: it goes on by itself, look at "holdfast meta ls"`, { cause: error })
    }
    if (!added.catchingUp) {
      const { members } = added
      const role = members.find((member) => member.id === id)?.role ?? 'member'
      return run.result({ id, address, role, members }, `added ${id} (${role})\n\n${showMeta(members)}`)
    }
    waiting = catchingUp(id, added.members)
    run.surroundings.stderr.write(`${waiting}\n`)
  }
}

/** What the removal of a member leaves. */
export interface RemovePlan {
  readonly member: StatusMeta
  /** Nodes that vote afterwards. */
  readonly voters: readonly string[]
  /** Those of them that do not answer now. */
  readonly silent: readonly string[]
  /** How many of them have to be up. */
  readonly needed: number
  /** How many of those that answer now may then fail; below 0: no majority is left. */
  readonly spare: number
}

/** Throws NOT_FOUND when no member is called `id`. */
export function planRemove(members: readonly StatusMeta[], id: string): RemovePlan {
  const member = members.find((one) => one.id === id)
  if (member === undefined) {
    const ids = members.map((one) => one.id).join(', ')
    throw new StoreError('NOT_FOUND', `${quote(id)} is no meta node of this cluster: it has ${ids}`)
  }
  const voters = members.filter((one) => one.id !== id && one.role !== 'learner')
  const silent = voters.filter((one) => !one.reachable)
  const needed = majority(voters.length)
  return {
    member,
    voters: voters.map((one) => one.id),
    silent: silent.map((one) => one.id),
    needed,
    spare: voters.length - silent.length - needed,
  }
}

function showPlan({ member, voters, silent, needed, spare }: RemovePlan): string {
  const left = `${voters.join(', ')} ${voters.length === 1 ? 'remains' : 'remain'}`
  const now = silent.length > 0 ? `, ${silent.join(', ')} ${silent.length === 1 ? 'does' : 'do'} not answer now` : ''
  const may =
    spare > 0 ? `${plural(spare, 'node')} may fail` : spare === 0 ? 'none may fail' : 'nothing can be decided any more'
  return `remove ${member.id} (${member.role}, ${member.address}): ${left}, ${needed} must be up${now}: ${may}`
}

async function removeMember(run: Run, id: string, yes: boolean): Promise<void> {
  const plan = planRemove(await run.store.admin.meta.ls(run.limits), id)
  const text = showPlan(plan)
  if (plan.member.role !== 'learner' && plan.spare < 1 && !yes) {
    throw new StoreError('CONDITION_FAILED', `not done: ${text}: add a node first, or give --yes`)
  }
  const members = await run.store.admin.meta.remove(id, { ...run.limits, force: yes })
  const { voters, needed, spare } = plan
  run.result(
    { removed: id, voters, needed, spare, members },
    `${text}\nremoved ${id}: its process ends, and its directory is refused from now on\n\n${showMeta(members)}`,
  )
}

/** Adds `meta` with what is done to a running cluster. */
export function addMetaCommands(program: Command, surroundings: Surroundings): void {
  const meta = program.command('meta').description('meta nodes: list, add, remove, hand leadership over')
  withCommon(meta.command('ls'))
    .description('list the meta nodes as the leader sees them')
    .action((flags: CommonOptions) =>
      runWithStore(surroundings, flags, async (run) => {
        const members = await run.store.admin.meta.ls(run.limits)
        run.result(members, showMeta(members))
      }),
    )
  withCommon(meta.command('add <id=host:port>'))
    .description('add a node that runs with an empty directory; ends when it has caught up and counts')
    .addHelpText(
      'after',
      examples(
        'holdfast meta --id m4 --listen 10.0.0.4:7400 --data /var/lib/holdfast/meta \\\n      --peers m1=10.0.0.1:7400,m2=10.0.0.2:7400,m3=10.0.0.3:7400,m4=10.0.0.4:7400   # on the new machine',
        'holdfast meta add m4=10.0.0.4:7400',
      ),
    )
    .action((text: string, flags: CommonOptions) => runWithStore(surroundings, flags, (run) => addMember(run, text)))
  withCommon(meta.command('remove <id>'))
    .description('remove a node; refused without --yes when those that remain could not lose one more')
    .option('--yes', 'do it even then')
    .addHelpText(
      'after',
      examples('holdfast meta remove m4', 'holdfast meta remove m3 --yes   # of three: two are left'),
    )
    .action((id: string, flags: CommonOptions & { yes?: boolean }) =>
      runWithStore(surroundings, flags, (run) => removeMember(run, id, flags.yes === true)),
    )
  withCommon(meta.command('transfer [id]'))
    .description('hand leadership to a node, or to the one that has most')
    .addHelpText('after', examples('holdfast meta transfer m2', 'holdfast meta transfer'))
    .action((id: string | undefined, flags: CommonOptions) =>
      runWithStore(surroundings, flags, async (run) => {
        const done = await run.store.admin.meta.transfer(id, run.limits)
        run.result(done, `${done.leader} leads; ${done.tookMs} ms without a leader`)
      }),
    )
}
