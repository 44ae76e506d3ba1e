/** What configuration a change leads to, and which changes are refused with which words. */

import { expect } from 'chai'
import fc from 'fast-check'
import { type ChangeFacts, leaveJoint, planChange } from '../../../src/core/raft/membership.ts'
import { decodeConfig, encodeConfig } from '../../../src/core/raft/messages.ts'
import type { ClusterConfig, MemberChange } from '../../../src/core/raft/types.ts'
import { configOf, memberOf } from './network.ts'

const well: ChangeFacts = { lag: () => undefined, silent: () => false }
const silent = (...ids: string[]): ChangeFacts => ({ ...well, silent: (id) => ids.includes(id) })
const add = (id: string, role: 'learner' | 'witness' | 'voter' = 'learner'): MemberChange => ({
  kind: 'add',
  member: memberOf(id, role),
})

const good: { name: string; from: string[]; change: MemberChange; facts?: ChangeFacts; to: ClusterConfig }[] = [
  { name: 'a learner is added at once', from: ['a', 'c'], change: add('b'), to: configOf(['a', 'b:learner', 'c']) },
  {
    name: 'a promotion is joint',
    from: ['a', 'b:learner'],
    change: { kind: 'promote', id: 'b' },
    to: configOf(['a', 'b'], ['a']),
  },
  {
    name: 'a voter leaves through a joint configuration',
    from: ['a', 'b', 'c'],
    change: { kind: 'remove', id: 'a' },
    to: configOf(['a:leaving', 'b', 'c'], ['a', 'b', 'c']),
  },
  {
    name: 'a learner leaves at once',
    from: ['a', 'b:learner'],
    change: { kind: 'remove', id: 'b' },
    to: configOf(['a']),
  },
  {
    name: 'a witness joins two voters through a joint configuration',
    from: ['a', 'b'],
    change: add('w', 'witness'),
    to: configOf(['a', 'b', 'w:witness'], ['a', 'b']),
  },
  {
    name: 'a witness leaves as a witness',
    from: ['a', 'b', 'w:witness'],
    change: { kind: 'remove', id: 'w' },
    to: configOf(['a', 'b', 'w:leaving-witness'], ['a', 'b', 'w']),
  },
  {
    name: 'a silent voter is removed beside a witness',
    from: ['a', 'b', 'w:witness'],
    change: { kind: 'remove', id: 'b' },
    facts: silent('b'),
    to: configOf(['a', 'b:leaving', 'w:witness'], ['a', 'b', 'w']),
  },
]

const bad: { from: string[]; change: MemberChange; facts?: ChangeFacts; why: string }[] = [
  { from: ['a'], change: { kind: 'remove', id: 'a' }, why: 'a is the only voter' },
  { from: ['a', 'w:witness'], change: { kind: 'remove', id: 'a' }, why: 'a is the only voter' },
  { from: ['a'], change: { kind: 'remove', id: 'z' }, why: 'z is not a member' },
  { from: ['a'], change: { kind: 'promote', id: 'z' }, why: 'z is not a member' },
  { from: ['a'], change: { kind: 'move', id: 'z', addresses: ['z:1'] }, why: 'z is not a member' },
  { from: ['a'], change: { kind: 'move', id: 'a', addresses: [] }, why: 'a needs an address' },
  { from: ['a'], change: { kind: 'promote', id: 'a' }, why: 'a is a voter, only a learner is promoted' },
  { from: ['a'], change: add('a'), why: 'a is a member already' },
  { from: ['a'], change: add('b', 'voter'), why: 'b is added as a learner and promoted when it has caught up' },
  {
    from: ['a'],
    change: { kind: 'add', member: { ...memberOf('b', 'learner'), incarnation: memberOf('a').incarnation } },
    why: 'b has the incarnation of a: its directory was copied',
  },
  {
    from: ['a'],
    change: { kind: 'add', member: { ...memberOf('b', 'learner'), incarnation: 'xyz' } },
    why: 'the incarnation of b is not 32 hex digits',
  },
  {
    from: ['a'],
    change: { kind: 'add', member: { ...memberOf('b', 'learner'), addresses: [] } },
    why: 'a member needs an id and an address',
  },
  {
    from: ['a', 'b', 'c'],
    change: add('w', 'witness'),
    why: 'a witness stands beside exactly two voters, and there are 3',
  },
  { from: ['a'], change: add('w', 'witness'), why: 'a witness stands beside exactly two voters, and there are 1' },
  { from: ['a', 'b', 'w:witness'], change: add('x', 'witness'), why: 'w is the witness already' },
  {
    from: ['a', 'b', 'c:learner', 'w:witness'],
    change: { kind: 'promote', id: 'c' },
    why: 'a witness stands beside two voters: remove the witness w first',
  },
  {
    from: ['a', 'b', 'w:witness'],
    change: { kind: 'remove', id: 'b' },
    why: 'b is alive and the witness w needs two voters: remove the witness first',
  },
  {
    from: ['a', 'b', 'c'],
    change: { kind: 'remove', id: 'b' },
    facts: silent('c'),
    why: 'no majority would answer after it, because c is silent',
  },
]

describe('raft plans of changes', () => {
  for (const { name, from, change, facts, to } of good) {
    it(name, () => {
      expect(planChange(configOf(from), change, facts ?? well)).to.deep.equal({ config: to })
    })
  }

  for (const { from, change, facts, why } of bad) {
    const what = change.kind === 'add' ? `${change.member.id} as ${change.member.role}` : change.id
    it(`${change.kind} ${what} to ${from.join(' ')} is refused: ${why}`, () => {
      expect(planChange(configOf(from), change, facts ?? well)).to.deep.equal({ why })
    })
  }

  it('any sequence of changes keeps a voter, at most one witness, sorted members and overlapping majorities', () => {
    const wish = fc.record({
      kind: fc.constantFrom('learner', 'witness', 'promote', 'remove'),
      id: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
      silent: fc.subarray(['a', 'b', 'c', 'd', 'e']),
    })
    fc.assert(
      fc.property(fc.array(wish, { maxLength: 40 }), (wishes) => {
        let config = configOf(['a', 'b'])
        for (const { kind, id, silent: gone } of wishes) {
          const change = kind === 'learner' || kind === 'witness' ? add(id, kind) : { kind, id }
          const plan = planChange(config, change as MemberChange, silent(...gone))
          if ('why' in plan) continue
          const incoming = deciders(plan.config)
          const { outgoing } = plan.config
          if (outgoing.length > 0) {
            expect(outgoing).to.deep.equal(deciders(config))
            expect(incoming.some((other) => outgoing.includes(other))).to.equal(true)
          }
          expect(decodeConfig(encodeConfig(plan.config))).to.deep.equal(plan.config)
          config = leaveJoint(plan.config)
          const roles = config.members.map(({ role }) => role)
          const voters = roles.filter((role) => role === 'voter').length
          expect(voters).to.be.at.least(1)
          expect(roles.filter((role) => role === 'witness').length).to.be.at.most(voters <= 2 ? 1 : 0)
          const names = config.members.map((member) => member.id)
          expect(names).to.deep.equal(names.toSorted())
        }
      }),
      { seed: 47, numRuns: 500 },
    )
  })
})

function deciders(config: ClusterConfig): string[] {
  return config.members.filter(({ role }) => role === 'voter' || role === 'witness').map(({ id }) => id)
}
