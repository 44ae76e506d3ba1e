/**
 * A plan from a seed ("swarm"): every parameter is drawn, each fault is in some runs and not in others, limits are often
 * tiny. Runs with everything at once hide what one fault alone would show.
 */

import { Prng } from '../../base/prng.ts'
import type { RaftLimits } from '../../core/raft/types.ts'
import { Seeded } from '../seed.ts'
import { cutShapes, type Fault, type RaftPlan, type Target } from './plan.ts'

/** Time that faults and clients have at most. */
const untilMaxUs = 9_000_000

type FaultKind = Fault['kind']

const drawnKinds: readonly FaultKind[] = [
  'crash',
  'power-loss',
  'pause',
  'rate',
  'jump',
  'cut',
  'reset',
  'replay',
  'slow-disk',
  'stall-disk',
  'fail-disk',
  'rot',
  'impostor',
  'compact',
  'transfer',
  'flood',
  'add',
  'remove',
  'replace',
]

export function drawPlan(seed: number): RaftPlan {
  const random = (label: string): Seeded => new Seeded(new Prng(seed).fork(label))
  const shape = random('shape')
  const witness = shape.chance(0.12)
  const voters = witness ? 2 : shape.pick([1, 2, 3, 3, 3, 3, 5, 5])
  const learners = shape.chance(0.15) ? 1 : 0
  const leaseReads = shape.chance(0.1)
  const tickUs = shape.pick([5_000, 10_000, 25_000])
  const electionTicks = 10
  const untilUs = Math.min(untilMaxUs, Math.round(tickUs * electionTicks * shape.between(15, 60)))
  const ordinary = { seed, untilUs, voters, witness, learners, leaseReads, tickUs, electionTicks }
  const clients = shape.pick([2, 3, 3, 4, 6])
  return {
    ...ordinary,
    clusterVersion: witness || learners > 0 ? 2 : shape.pick([1, 2, 2, 2, 2]),
    electionSpreadTicks: 6,
    heartbeatTicks: 2,
    limits: drawLimits(random('limits')),
    net: drawNet(random('net'), tickUs),
    disk: drawDisk(random('disk'), tickUs),
    machine: drawMachine(random('machine'), tickUs),
    clients: Array.from({ length: clients }, (_, i) => i + 1),
    workload: drawWorkload(random('workload'), tickUs, leaseReads),
    ghosts: shape.chance(0.5),
    oldAnswers: shape.chance(0.5),
    faults: drawFaults(random('faults'), ordinary),
  }
}

function drawLimits(random: Seeded): RaftLimits {
  const entry = 96
  const tiny = random.chance(0.6)
  return {
    cacheBytes: tiny ? random.pick([0, entry, 4 * entry, 20 * entry]) : 1_000_000,
    entryBytes: 4096,
    uncommittedBytes: tiny ? random.pick([1, 4 * entry, 40 * entry]) : 1_000_000,
    uncommittedEntries: tiny ? random.pick([1, 2, 5, 50]) : 1000,
    messageBytes: tiny ? random.pick([1, 2 * entry, 10 * entry]) : 65_536,
    windowMessages: random.pick([1, 2, 4, 8]),
    windowBytes: tiny ? random.pick([1, 5 * entry, 50 * entry]) : 1_000_000,
    applyBytes: tiny ? random.pick([1, 3 * entry]) : 65_536,
    applyEntries: random.pick([1, 2, 16, 512]),
    readsWaiting: random.pick([2, 1000]),
    readBatches: random.pick([1, 2, 4]),
    compactEntries: random.pick([3, 5, 10, 50, 1000]),
    compactBytes: 1_000_000,
    trailingEntries: random.pick([0, 1, 5, 50]),
  }
}

function drawNet(random: Seeded, tickUs: number): RaftPlan['net'] {
  const bad = random.chance(0.5)
  const mode = random.chance(0.4) ? 'stream' : 'datagram'
  const minUs = random.pick([0, 100, tickUs / 20])
  return {
    mode,
    minUs,
    meanUs: random.pick([100, tickUs / 20, tickUs / 4, bad ? tickUs * 2 : 500]),
    loss: bad ? random.unit() * 0.3 : random.pick([0, 0.01]),
    duplicate: bad ? random.unit() * 0.4 : 0,
    late: bad ? random.unit() * 0.2 : random.pick([0, 0.01]),
    codec: random.chance(0.05),
    drops: [],
  }
}

function drawDisk(random: Seeded, tickUs: number): RaftPlan['disk'] {
  const slow = random.chance(0.3)
  return {
    writeUs: random.pick([20, 200]),
    syncUs: slow ? random.pick([tickUs / 2, tickUs * 3]) : random.pick([100, 1000]),
    stallRate: slow ? random.unit() * 0.1 : random.pick([0, 0.005]),
    stallUs: tickUs * random.pick([4, 20]),
  }
}

function drawMachine(random: Seeded, tickUs: number): RaftPlan['machine'] {
  return {
    applyUs: random.pick([10, 500, tickUs / 2]),
    flushUs: random.pick([100, tickUs, tickUs * 20]),
    pieces: random.pick([1, 3, 8]),
    pieceUs: random.pick([100, tickUs]),
  }
}

function drawWorkload(random: Seeded, tickUs: number, leaseReads: boolean): RaftPlan['workload'] {
  return {
    keys: random.pick([1, 2, 5]),
    thinkUs: random.pick([200, tickUs / 5, tickUs]),
    timeoutUs: tickUs * random.pick([4, 12, 30]),
    operations: random.pick([50, 400, 400]),
    reads: random.pick([0.1, 0.4, 0.8]),
    readers: leaseReads || random.chance(0.3) ? 1 + random.below(2) : 0,
    paddingMax: random.pick([0, 0, 60, 500]),
    anywhere: random.chance(0.4),
  }
}

type Shape = Pick<RaftPlan, 'untilUs' | 'voters' | 'witness' | 'learners' | 'leaseReads' | 'tickUs' | 'electionTicks'>

/** Lease reads are promised only while clocks run at about the same rate and no process stands still. */
const leaseBreakers: readonly FaultKind[] = ['pause', 'rate', 'jump']

function drawFaults(random: Seeded, shape: Shape): Fault[] {
  const allowed = drawnKinds.filter((kind) => !shape.leaseReads || !leaseBreakers.includes(kind))
  const kinds = random.shuffle(allowed).slice(0, 1 + random.below(random.chance(0.5) ? 3 : allowed.length))
  const election = shape.tickUs * shape.electionTicks
  const meanUs = election * random.pick([0.5, 1.5, 4])
  const faults: Fault[] = []
  let atUs = election * 2 * random.unit()
  while (atUs < shape.untilUs) {
    faults.push(...drawFault(random, random.pick(kinds), Math.round(atUs), election, shape))
    atUs += -Math.log(1 - random.unit()) * meanUs
  }
  if (shape.leaseReads) faults.push(...drawLeaseTraps(random, shape.untilUs, election))
  if (random.chance(0.3)) faults.push(...drawSchism(random, election * (2 + 4 * random.unit()), election))
  return faults.toSorted((a, b) => a.atUs - b.atUs)
}

/** A leader that holds a lease is cut off, and before that sometimes asked to hand over: it must not go on reading. */
function drawLeaseTraps(random: Seeded, untilUs: number, election: number): Fault[] {
  const faults: Fault[] = []
  for (let at = election * 3; at < untilUs; at += Math.round(election * random.between(5, 9))) {
    if (random.chance(0.6)) faults.push({ kind: 'transfer', to: 'follower', atUs: at })
    const atUs = at + Math.round(random.unit() * random.pick([1000, 3000, 10_000]))
    faults.push({ kind: 'cut', shape: 'isolate', node: 'leader', mask: 0, clog: false, atUs, forUs: election * 3 })
  }
  return faults
}

/**
 * One leader after the other is cut off with much in its log that nobody else has, or only few: logs that differ in length
 * and in term, which is what the rules of votes and of commit are for.
 */
function drawSchism(random: Seeded, atUs: number, election: number): Fault[] {
  const faults: Fault[] = []
  let at = Math.round(atUs)
  for (let round = 0; round < 2 + random.below(4); round++) {
    const forUs = Math.round(election * random.pick([1.5, 3, 4, 6]))
    const mask = random.u32()
    const shape = random.pick(['isolate', 'isolate', 'split', 'pair', 'mute'] as const)
    faults.push({ kind: 'cut', shape, node: 'leader', mask, clog: false, atUs: at, forUs })
    faults.push({ kind: 'flood', count: 1 + random.below(40), bytes: 0, atUs: at + random.below(1000) })
    // The operator asks a leader that is cut off: its configuration will not be the one that stays.
    if (random.chance(0.3)) faults.push({ kind: 'add', atUs: at + random.below(1000) })
    if (random.chance(0.3)) {
      const power = random.chance(0.5)
      faults.push({ kind: 'crash', node: 'leader', power, atUs: at + Math.round(forUs * random.unit()), forUs })
    }
    at += Math.round(forUs * random.between(0.5, 1.3))
  }
  return faults
}

function drawTarget(random: Seeded, shape: Shape): Target {
  if (shape.witness && random.chance(0.15)) return 'witness'
  return random.chance(0.45) ? 'leader' : random.chance(0.3) ? 'follower' : random.below(shape.voters + 2)
}

function drawFault(random: Seeded, kind: FaultKind, atUs: number, election: number, shape: Shape): Fault[] {
  const node = drawTarget(random, shape)
  const forUs = Math.round(election * random.pick([0.1, 0.5, 1.5, 3, 8]) * random.between(0.5, 1.5))
  const lasting = { atUs, forUs, node }
  switch (kind) {
    case 'crash': {
      const crash = { ...lasting, kind, power: random.chance(0.5) } as const
      if (random.chance(0.6)) return [crash]
      // What was said to its earlier life arrives in the next one.
      return [crash, ...echoes(random, atUs + forUs, election)]
    }
    case 'power-loss':
      return [{ atUs, forUs: Math.min(forUs, election * 2), kind }]
    case 'pause':
    case 'stall-disk':
    case 'impostor':
      return [{ ...lasting, kind }]
    case 'rate':
      return [{ ...lasting, kind, rate: random.pick([0.3, 0.7, 1.5, 4]) }]
    case 'jump':
      return [{ atUs, node, kind, ticks: 1 + random.below(30) }]
    case 'cut':
      return random.chance(0.2) ? drawSwizzle(random, atUs, election, shape) : [drawCut(random, lasting)]
    case 'reset':
      return [{ atUs, node, kind, mask: random.u32() }]
    case 'replay':
      return [{ atUs, kind, count: 1 + random.below(20) }]
    case 'slow-disk':
      return [{ ...lasting, kind, factor: random.pick([5, 50, 500]) }]
    case 'fail-disk':
      return [{ ...lasting, kind, how: random.pick(['sync', 'space', 'io']) }]
    case 'rot':
      return [{ ...lasting, kind, how: random.pick(['bit', 'tail', 'stale', 'slots']) }]
    case 'compact':
      return [{ atUs, node, kind }]
    case 'transfer':
      return [{ atUs, kind, to: node }]
    case 'flood':
      return [{ atUs, kind, count: 1 + random.below(60), bytes: random.pick([0, 100, 3000]) }]
    case 'add':
      return [{ atUs, kind }]
    case 'remove':
      return [{ atUs, node, kind, stop: random.chance(0.5) }]
    case 'replace':
      return [{ atUs, node, kind }, ...echoes(random, atUs + election, election * 3)]
  }
}

/** Old messages arrive once more, several times after `atUs`. */
function echoes(random: Seeded, atUs: number, withinUs: number): Fault[] {
  const times = Array.from({ length: 1 + random.below(4) }, () => Math.round(atUs + withinUs * random.unit()))
  return times.map((at) => ({ kind: 'replay', count: 10 + random.below(60), atUs: at }))
}

function drawCut(random: Seeded, lasting: { atUs: number; forUs: number; node: Target }): Fault {
  const shape = random.pick(cutShapes)
  return { ...lasting, kind: 'cut', shape, mask: random.u32(), clog: random.chance(0.3) }
}

/** Nodes are cut off one by one and come back in another order. */
function drawSwizzle(random: Seeded, atUs: number, election: number, shape: Shape): Fault[] {
  const nodes = random.shuffle(Array.from({ length: shape.voters }, (_, i) => i))
  const step = Math.round(election * random.between(0.1, 0.6))
  return nodes.map((node, i) => ({
    kind: 'cut',
    shape: 'isolate',
    node,
    mask: 0,
    clog: true,
    atUs: atUs + i * step,
    forUs: Math.round(step * (nodes.length - i) + random.unit() * step * nodes.length),
  }))
}
