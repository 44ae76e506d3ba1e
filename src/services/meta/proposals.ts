/**
 * What may be proposed now: one place that every command passes on its way into the log.
 *
 * The leader proposes nothing above the cluster version (docs/RULES.md, rule 15), and nothing that grows the metadata
 * while its disk is almost full (rule 17). Upkeep, deletes and changes of the cluster itself go on. After `meta recover`
 * nothing is proposed before the state was told: until then ids would be handed out that the lost members may have handed
 * out before (rules 1 and 2).
 */

import { type Command, versionOf } from '../../core/meta/commands.ts'
import { StoreError } from '../../model/errors.ts'

/** What decides it. */
export interface ProposalRules {
  /** Cluster version in force; undefined before the cluster is founded. */
  readonly version: number | undefined
  readonly lowSpace: boolean
  /** Incarnation of the cluster that the state was told of; 1 before the cluster is founded. */
  readonly told: number
  /** Incarnation of the cluster that this node is of. */
  readonly own: number
}

/** Throws INCOMPATIBLE_VERSION, NO_SPACE or UNAVAILABLE (the recovery is not applied yet), all definite. */
export function checkProposal(command: Command, rules: ProposalRules): void {
  if (rules.own > rules.told && command.kind !== 'recovered') {
    throw new StoreError('UNAVAILABLE', 'the metadata was recovered and does not serve yet: try again in a moment', {
      outcome: 'definite',
    })
  }
  const needed = versionOf(command.kind, rules.told > 1)
  if (rules.version !== undefined && needed > rules.version) {
    throw new StoreError(
      'INCOMPATIBLE_VERSION',
      `the cluster runs version ${rules.version}, this needs ${needed}: upgrade all nodes, then run "holdfast upgrade"`,
      { outcome: 'definite' },
    )
  }
  if (rules.lowSpace && grows(command)) {
    throw new StoreError(
      'NO_SPACE',
      'the disk of the metadata is almost full: remove objects, or make room on the meta nodes',
      { outcome: 'definite' },
    )
  }
}

function grows(command: Command): boolean {
  switch (command.kind) {
    case 'createBucket':
    case 'grantLease':
    case 'stagePage':
    case 'commitChunks':
      return true
    case 'commit':
      return command.operations.some((operation) => operation.kind !== 'delete')
    default:
      return false
  }
}
