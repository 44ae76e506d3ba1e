/**
 * Asks every meta node by itself, so that there is an answer when none leads.
 *
 * A follower that is alive refuses the question (NOT_LEADER), and that is the proof of life; one that is gone or silent
 * gives nothing. Each node has a stream of its own here: the client's session follows the leader and may hang on one node.
 *
 * Invariant: takes no longer than its time limit, whatever the nodes do.
 */

import { asStoreError } from '../model/errors.ts'
import type { Env } from '../ports/env.ts'
import { statusOf } from './entries.ts'
import { Link } from './meta-link.ts'
import { Scope } from './scope.ts'
import type { CallLimits, ClusterStatus, MetaSurvey, StatusMeta } from './types.ts'

const surveyMs = 1_500

/** What one node said; `status` when it leads. */
interface Answer {
  readonly meta: StatusMeta
  readonly status?: ClusterStatus
}

async function ask(env: Env, address: string, signal: AbortSignal): Promise<Answer> {
  // Only the leader knows ids, terms and versions.
  const unknown = { term: 0, applied: 0, versionMax: 0, lowSpace: false }
  const meta = { id: address, address, role: 'follower', ...unknown } as const
  const link = new Link(env, address)
  try {
    const { status } = await link.call({ status: {} }, signal)
    if (status === null || status === undefined) return { meta: { ...meta, reachable: true } }
    return { meta: { ...meta, role: 'leader', reachable: true }, status: statusOf(status) }
  } catch (error) {
    const { code } = asStoreError(error, 'survey')
    return { meta: { ...meta, reachable: link.answered || code === 'NOT_LEADER' || code === 'NO_QUORUM' } }
  } finally {
    link.destroy()
  }
}

/** Which of `addresses` answer, in their order. Throws CANCELLED when the caller gives up. */
export async function survey(env: Env, addresses: readonly string[], callLimits: CallLimits): Promise<MetaSurvey> {
  const { signal, timeoutMs } = callLimits
  const scope = new Scope(env.clock, { signal, timeoutMs: timeoutMs ?? surveyMs }, 'survey')
  try {
    const answers = await Promise.all([...new Set(addresses)].map((address) => ask(env, address, scope.signal)))
    const status = answers.find((answer) => answer.status !== undefined)?.status
    return { meta: answers.map((answer) => answer.meta), ...(status === undefined ? {} : { status }) }
  } finally {
    scope.close()
  }
}
