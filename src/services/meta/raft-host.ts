/**
 * The replicator: runs the pure Raft core against a log store, a transport and a state machine (thin first version: the
 * signature only).
 */

import type { NetServer } from '../../ports/net.ts'
import type { Env } from '../../ports/env.ts'
import type { Files } from '../../ports/files.ts'
import type { KvFactory } from '../../ports/kv.ts'
import type { MetaConfig } from '../../config/types.ts'
import type { ClusterId } from '../../model/ids.ts'
import { StoreError } from '../../model/errors.ts'
import type { RaftLimits } from '../../core/raft/types.ts'
import type { Replicator, StateMachine } from './types.ts'

/** Where a meta node keeps what must survive: small files and its two key-value stores. */
export interface MetaStores {
  readonly files: Files
  readonly kv: KvFactory
}

/** The replicator and what only its composition root needs of it. */
export interface RaftReplicator extends Replicator {
  /** Registers the Raft service. Call before `start`, which needs its peers to reach it. */
  bind(server: NetServer): void
  /** The cluster this node belongs to; undefined until it was formed. Set once `start` has resolved. */
  clusterId(): ClusterId | undefined
}

/** Makes the replicator of one meta node; nothing happens before `start`. `limits` overrides defaults, for tests. */
export function createReplicator(
  env: Env,
  stores: MetaStores,
  machine: StateMachine,
  config: MetaConfig,
  limits: Partial<RaftLimits> = {},
): RaftReplicator {
  throw new StoreError('INTERNAL', `not built yet: ${[env, stores, machine, config, limits].length}`)
}
