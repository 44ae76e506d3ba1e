/**
 * The identity file of a meta node (docs/formats/raft.md): who it is, which cluster and which incarnation of it the
 * directory belongs to, and how far its making has come.
 *
 * Phases, each durable before the next: `new` (no cluster) -> `formed` -> `ready` (log and hard state exist; if they are
 * missing from then on, they were lost).
 */

import { bool, extended, struct, text, type TypeOf, uint } from '../../base/schema.ts'
import { StoreError } from '../../model/errors.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Files } from '../../ports/files.ts'
import { clusterConfig } from '../../core/raft/messages.ts'
import { seal, unseal } from './log-format.ts'

const identityName = 'raft-identity'

const identityRecord = extended(
  struct({
    node: text,
    incarnation: text,
    /** Empty until formed. */
    clusterId: text,
    /** The members the cluster was founded with; for a node that joined later, those it was told of. */
    config: clusterConfig,
    /** The log and the hard state were created. */
    ready: bool,
  }),
  extended(
    struct({
      /** Rises with each recovery from one survivor. */
      clusterIncarnation: uint,
      /** The directory is that of a witness. */
      witness: bool,
      /** It joined a cluster that existed: its log began empty. */
      joined: bool,
      /** End of the leader's log when it joined: the entry that adds it comes after. */
      joinIndex: uint,
      /** A recovery that was begun: term and index of the entry that it writes; 0 when there is none. */
      recoveryTerm: uint,
      recoveryIndex: uint,
    }),
    struct({
      /** How the log is stored: one of `logFormats`. */
      log: uint,
    }),
    { log: 0 },
  ),
  { clusterIncarnation: 1, witness: false, joined: false, joinIndex: 0, recoveryTerm: 0, recoveryIndex: 0, log: 0 },
)

/** Ways to store the log: as Holdfast 0.1 does, in LevelDB; and in segment files. */
export const logFormats = { level: 0, segments: 1 } as const
export type LogFormat = (typeof logFormats)[keyof typeof logFormats]

export type Identity = Readonly<TypeOf<typeof identityRecord>>

/** The identity of a directory that was never used. */
export function newIdentity(node: NodeId, incarnation: string, witness: boolean): Identity {
  const config = { members: [], outgoing: [] }
  const nothing = { joined: false, joinIndex: 0, recoveryTerm: 0, recoveryIndex: 0, log: logFormats.level }
  return { node, incarnation, clusterId: '', config, ready: false, clusterIncarnation: 1, witness, ...nothing }
}

/** The stored identity; undefined in an empty directory. CORRUPT when it is damaged. */
export async function readIdentity(files: Files, doing: string): Promise<Identity | undefined> {
  const stored = await files.read(identityName)
  if (stored === undefined) return undefined
  const identity = unseal(identityRecord, stored)
  if (identity === undefined) {
    throw new StoreError(
      'CORRUPT',
      `${doing}: ${identityName} is damaged: remove this member and add it again with an empty directory`,
    )
  }
  if (identity.log > logFormats.segments) {
    throw new StoreError(
      'INCOMPATIBLE_VERSION',
      `${doing}: the raft log is stored in format ${identity.log}, this program knows up to ${logFormats.segments}: run the newer program`,
    )
  }
  return identity
}

/** Durable when it resolves; a crash leaves the old one or the new. */
export function writeIdentity(files: Files, identity: Identity): Promise<void> {
  return files.write(identityName, seal(identityRecord, identity))
}
