/** The errors that callers of a replicator get, in one place. */

import type { MetaConfig } from '../../config/types.ts'
import { StoreError } from '../../model/errors.ts'

/** `leader`: its addresses; empty when none is known, or when this node is handing leadership over. */
export function notLeader(self: Pick<MetaConfig, 'id' | 'witness'>, leader: readonly string[]): StoreError {
  const where = leader.length === 0 ? 'no leader is known yet: try again' : `ask ${leader[0]}`
  const what = self.witness ? 'is a witness and holds no data' : 'does not lead'
  return new StoreError('NOT_LEADER', `meta node ${self.id} ${what}: ${where}`, { details: { leader } })
}

export function overloaded(): StoreError {
  return new StoreError('OVERLOADED', 'replicate a command: too many are waiting: try again shortly', {
    details: { retryAfterMs: 100 },
  })
}

export function tooLarge(size: number, max: number): StoreError {
  return new StoreError(
    'INVALID_ARGUMENT',
    `replicate a command: it has ${size} bytes, the most is ${max}: send less at once`,
  )
}

/** A linearizable read that nobody confirmed. Reads change nothing. */
export function readExpired(): StoreError {
  return new StoreError(
    'UNAVAILABLE',
    'read: no leader confirmed the read in time: try again or ask another meta node',
    {
      outcome: 'definite',
    },
  )
}
