/**
 * Invariants that cost too much to be checked after every step in production: they walk what is in memory. On with
 * `paranoid`, in tests and simulations; the cheap ones are always on (`check` of each part).
 */

import { assert } from '../../base/assert.ts'
import type { RaftLog } from './log.ts'
import type { Roster } from './membership.ts'
import { decodeConfig, encodeConfig } from './messages.ts'

/** `settled`: this node leads and has committed an entry of its term. */
export function checkThoroughly(log: RaftLog, roster: Roster, settled: boolean): void {
  const first = log.cachedFrom
  const entries = log.cached(first, log.lastIndex) ?? []
  let term = log.term(first - 1) ?? 0
  let configs = 0
  for (const [i, entry] of entries.entries()) {
    assert(entry.index === first + i, 'entries in memory are contiguous')
    assert(entry.term >= term && log.matches(entry.index, entry.term), 'terms of entries rise and are the known ones')
    term = entry.term
    if (entry.type !== 'config') continue
    configs++
    const inForce = log.configAt(entry.index)
    const same = encodeConfig(inForce.config).toString() === encodeConfig(decodeConfig(entry.payload)).toString()
    assert(inForce.index === entry.index && same, 'a configuration is in force from its entry on')
  }
  const known = log.configsFrom(first).filter((item) => item.index >= first)
  assert(known.length === configs, 'every configuration in force has its entry')
  const uncommitted = log.configsFrom(log.commit).filter((item) => item.index > log.commit)
  assert(!settled || uncommitted.length <= 1, 'one change of the configuration is under way at most')
  const [incoming = [], outgoing = incoming] = roster.groups
  const overlap = incoming.some((id) => outgoing.includes(id))
  assert(overlap || incoming.length === 0, 'the old and the new majority share a member')
}
