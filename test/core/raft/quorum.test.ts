/** Majorities: the committed index and the outcome of a vote equal brute force, also for joint configurations. */

import { expect } from 'chai'
import fc from 'fast-check'
import { majorityOf, quorumIndex, voteOutcome, voterGroups } from '../../../src/core/raft/quorum.ts'
import { type ClusterConfig, memberRoles } from '../../../src/core/raft/types.ts'
import { memberOf } from './network.ts'

const ids = ['a', 'b', 'c', 'd', 'e', 'f', 'g']

/** Any configuration, joint or not, with at least one voter on each side. */
const configs: fc.Arbitrary<ClusterConfig> = fc
  .record({
    roles: fc.array(fc.constantFrom(...memberRoles), { minLength: 1, maxLength: ids.length }),
    outgoing: fc.option(fc.subarray(ids, { minLength: 1 }), { nil: [] }),
  })
  .map(({ roles, outgoing }) => ({ members: roles.map((role, i) => memberOf(ids[i] as string, role)), outgoing }))
  .filter(({ members }) => members.some(({ role }) => role === 'voter' || role === 'witness'))

/** True when those that `holds` names are more than half of each side. */
function decides(config: ClusterConfig, holds: (id: string) => boolean): boolean {
  const incoming = config.members.filter(({ role }) => role === 'voter' || role === 'witness').map(({ id }) => id)
  const sides = config.outgoing.length === 0 ? [incoming] : [incoming, config.outgoing]
  return sides.every((side) => side.filter(holds).length * 2 > side.length)
}

describe('raft quorum', () => {
  it('the committed index equals brute force for any configuration (scenario 35)', () => {
    fc.assert(
      fc.property(configs, fc.array(fc.nat(8), { minLength: 7, maxLength: 7 }), (config, matches) => {
        const matchOf = (id: string): number => matches[ids.indexOf(id)] ?? 0
        let brute = 0
        for (let index = 1; index <= 8; index++) if (decides(config, (id) => matchOf(id) >= index)) brute = index
        expect(quorumIndex(voterGroups(config), matchOf)).to.equal(brute)
      }),
      { seed: 35, numRuns: 2000 },
    )
  })

  it('a vote is won or lost exactly when no further answer can change it', () => {
    const answers = fc.array(fc.constantFrom(true, false, undefined), { minLength: 7, maxLength: 7 })
    fc.assert(
      fc.property(configs, answers, (config, votes) => {
        const voteOf = (id: string): boolean | undefined => votes[ids.indexOf(id)]
        const given = new Map(ids.flatMap((id) => (voteOf(id) === undefined ? [] : [[id, voteOf(id) === true]])))
        const won = decides(config, (id) => voteOf(id) === true)
        const open = decides(config, (id) => voteOf(id) !== false)
        const expected = won ? 'won' : open ? 'pending' : 'lost'
        expect(voteOutcome(voterGroups(config), given)).to.equal(expected)
      }),
      { seed: 36, numRuns: 2000 },
    )
  })

  it('two majorities of one configuration share a member; nobody decides without voters', () => {
    for (let count = 1; count <= 9; count++) expect(majorityOf(count) * 2).to.be.above(count)
    expect(quorumIndex([], () => 5)).to.equal(0)
    expect(quorumIndex([['a'], []], () => 5)).to.equal(0)
    expect(voteOutcome([], new Map([['a', true]]))).to.equal('lost')
  })
})
