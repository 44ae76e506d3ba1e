/**
 * `holdfast meta recover`: a new cluster from one survivor's directory, when the majority is gone for good. Offline.
 *
 * Without --yes it only shows what the directory holds and what the step would mean, so that survivors can be compared.
 */

import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { table } from '../faces/cli/format.ts'
import { isNodeId } from '../model/ids.ts'
import { StoreError } from '../model/errors.ts'
import { quote } from '../model/names.ts'
import { metaStores } from './meta-stores.ts'
import { inspectMeta, recoverMeta, type SurvivorReport } from '../services/meta/recover.ts'

export interface RecoverFlags {
  readonly data?: string
  readonly id?: string
  readonly yes?: boolean
  readonly json?: boolean
}

function showReport(report: SurvivorReport): string {
  const { node, role, clusterId, clusterIncarnation, lastTerm, lastIndex, committedIndex, membersLost } = report
  const others = membersLost.length > 0 ? membersLost.join(', ') : 'none'
  return table(
    [],
    [
      ['node', `${node} (${role})`],
      ['cluster', `${clusterId}, incarnation ${clusterIncarnation}`],
      ['last entry', `${lastIndex} of term ${lastTerm}; known to be committed up to ${committedIndex}`],
      ['other members', others],
    ],
  )
}

const meaning = `Recovery makes a new cluster of this node alone, out of what its directory holds.
It may lose acknowledged metadata: whatever the other members decided after the last entry above.
Of several survivors take the one with the highest term of the last entry, then the highest entry.
The other members are left behind for good: stop them, and add nodes with empty directories afterwards.
Chunks are not touched, and nothing is deleted until "holdfast deletes resume". Copy the directory first.`

function nextSteps({ node }: SurvivorReport): string {
  return `Next:
  start ${node} with the flags it had (it leads a cluster of one)
  holdfast status
  holdfast meta add ID=HOST:PORT     # for each further node, started with an empty directory
  holdfast deletes status            # later, when every storage node has reported
  holdfast deletes resume --yes`
}

/**
 * Shows what would be recovered, or with `yes` does it. Throws USAGE, NOT_FOUND, CONDITION_FAILED (without `yes`, too),
 * LOCKED while the node runs, CORRUPT or DATA_LOST.
 */
export async function runRecover(flags: RecoverFlags, print: (text: string) => void): Promise<void> {
  const { data, id, yes = false, json = false } = flags
  if (data === undefined || id === undefined) {
    throw new StoreError('USAGE', 'meta recover needs the directory and the name of the survivor: --data DIR --id M')
  }
  if (!isNodeId(id)) throw new StoreError('USAGE', `--id ${quote(id)} is not a node name`)
  const dir = resolve(data)
  if (!existsSync(dir)) throw new StoreError('NOT_FOUND', `recover the metadata: there is no directory ${quote(dir)}`)
  const report = await (yes ? recoverMeta : inspectMeta)(metaStores(dir), { expect: id })
  if (json) print(JSON.stringify({ recovered: yes, ...report }))
  else if (yes) print(`recovered\n\n${showReport(report)}\n\n${nextSteps(report)}`)
  else print(`${showReport(report)}\n\n${meaning}`)
  if (!yes) throw new StoreError('CONDITION_FAILED', 'nothing was changed: give --yes to recover from this directory')
}
