/**
 * Where new copies go: a random choice of disks, weighted (by free space and load, as the caller sees it), on distinct
 * nodes and spread over zones.
 *
 * Invariants of a choice: no node twice; no disk of weight 0, none that is excluded, none on a node that already has a
 * copy; a zone gets its next copy only when every zone that still has an eligible node has as many, so copies stand in
 * min(copies, zones) zones; fewer disks than wanted only when there are no more eligible nodes.
 * Cost: O(copies x log nodes) per choice, whatever the number of nodes. Randomness is an argument.
 */

import { assert } from '../../base/assert.ts'
import type { DiskNumber, NodeId, ZoneId } from '../../model/ids.ts'
import { WeightedTree } from './weighted-tree.ts'

export interface DiskWeight {
  readonly disk: DiskNumber
  readonly node: NodeId
  readonly zone: ZoneId
  /** Relative chance to be chosen; 0: takes no new copies. */
  readonly weight: number
}

export interface Choice {
  /** Copies still to place. */
  readonly copies: number
  /** Disks not to use. */
  readonly exclude: readonly DiskNumber[]
  /** Disks that have a copy: their nodes are not used, and their zones count as served. Unknown numbers are ignored. */
  readonly have: readonly DiskNumber[]
}

interface NodeEntry {
  readonly id: NodeId
  zone: ZoneEntry
  /** Position in the tree of its zone. */
  index: number
  readonly disks: Map<DiskNumber, number>
}

interface ZoneEntry {
  readonly id: ZoneId
  readonly index: number
  readonly tree: WeightedTree
  readonly nodes: (NodeEntry | undefined)[]
  readonly freeIndexes: number[]
}

/** All disks with their weights; changed as the cluster changes, asked for every chunk. */
export class PlacementTable {
  readonly #zones: ZoneEntry[] = []
  readonly #zoneById = new Map<ZoneId, ZoneEntry>()
  readonly #zoneTree = new WeightedTree()
  readonly #nodes = new Map<NodeId, NodeEntry>()
  readonly #nodeOfDisk = new Map<DiskNumber, NodeEntry>()

  /** Adds the disk or changes its weight, node or zone. All disks of a node are in the zone that was set last. */
  set(entry: DiskWeight): void {
    const before = this.#nodeOfDisk.get(entry.disk)
    if (before !== undefined && before.id !== entry.node) this.remove(entry.disk)
    const zone = this.#zone(entry.zone)
    let node = this.#nodes.get(entry.node)
    if (node === undefined) {
      node = { id: entry.node, zone, index: 0, disks: new Map() }
      this.#join(node, zone)
      this.#nodes.set(entry.node, node)
    } else if (node.zone !== zone) {
      this.#leave(node)
      this.#join(node, zone)
    }
    node.disks.set(entry.disk, entry.weight)
    this.#nodeOfDisk.set(entry.disk, node)
    this.#weigh(node, sumOf(node.disks))
  }

  remove(disk: DiskNumber): void {
    const node = this.#nodeOfDisk.get(disk)
    if (node === undefined) return
    this.#nodeOfDisk.delete(disk)
    node.disks.delete(disk)
    this.#weigh(node, sumOf(node.disks))
    if (node.disks.size > 0) return
    this.#leave(node)
    this.#nodes.delete(node.id)
  }

  /** Zone of a known disk. */
  zoneOf(disk: DiskNumber): ZoneId | undefined {
    return this.#nodeOfDisk.get(disk)?.zone.id
  }

  /** Disk numbers in the order they were drawn. `unit` gives numbers in [0, 1). */
  choose(choice: Choice, unit: () => number): DiskNumber[] {
    const touched = new Set<NodeEntry>()
    const copiesIn = new Map<ZoneEntry, number>()
    const excluded = new Set(choice.exclude)
    for (const disk of choice.have) {
      const node = this.#nodeOfDisk.get(disk)
      if (node === undefined) continue
      touched.add(node)
      copiesIn.set(node.zone, (copiesIn.get(node.zone) ?? 0) + 1)
      this.#weigh(node, 0)
    }
    for (const disk of choice.exclude) {
      const node = this.#nodeOfDisk.get(disk)
      if (node === undefined || touched.has(node)) continue
      touched.add(node)
      this.#weigh(node, sumOf(node.disks, excluded))
    }
    const chosen: DiskNumber[] = []
    this.#closeZones(copiesIn, 0)
    let level = 0
    while (chosen.length < choice.copies) {
      const zoneIndex = this.#zoneTree.choose(unit())
      if (zoneIndex === undefined) {
        level++
        if (level > choice.copies + choice.have.length) break
        this.#closeZones(copiesIn, level)
        continue
      }
      const zone = this.#zones[zoneIndex]
      assert(zone !== undefined, 'a chosen zone exists')
      const node = drawNode(zone, unit())
      chosen.push(drawDisk(node.disks, excluded, unit()))
      touched.add(node)
      copiesIn.set(zone, (copiesIn.get(zone) ?? 0) + 1)
      this.#weigh(node, 0)
      this.#closeZones(copiesIn, level)
    }
    for (const node of touched) this.#weigh(node, sumOf(node.disks))
    for (const zone of copiesIn.keys()) this.#zoneTree.set(zone.index, zone.tree.total)
    return chosen
  }

  /** Opens the zones with at most `level` copies, closes those with more. Zones without a copy are always open. */
  #closeZones(copiesIn: ReadonlyMap<ZoneEntry, number>, level: number): void {
    for (const [zone, copies] of copiesIn) this.#zoneTree.set(zone.index, copies <= level ? zone.tree.total : 0)
  }

  #weigh(node: NodeEntry, weight: number): void {
    node.zone.tree.set(node.index, weight)
    this.#zoneTree.set(node.zone.index, node.zone.tree.total)
  }

  #zone(id: ZoneId): ZoneEntry {
    const known = this.#zoneById.get(id)
    if (known !== undefined) return known
    const zone: ZoneEntry = { id, index: this.#zones.length, tree: new WeightedTree(), nodes: [], freeIndexes: [] }
    this.#zones.push(zone)
    this.#zoneById.set(id, zone)
    return zone
  }

  #join(node: NodeEntry, zone: ZoneEntry): void {
    node.zone = zone
    node.index = zone.freeIndexes.pop() ?? zone.nodes.length
    zone.nodes[node.index] = node
  }

  #leave(node: NodeEntry): void {
    this.#weigh(node, 0)
    node.zone.nodes[node.index] = undefined
    node.zone.freeIndexes.push(node.index)
  }
}

function sumOf(disks: ReadonlyMap<DiskNumber, number>, excluded?: ReadonlySet<DiskNumber>): number {
  let sum = 0
  for (const [disk, weight] of disks) if (excluded === undefined || !excluded.has(disk)) sum += weight
  return sum
}

function drawNode(zone: ZoneEntry, unit: number): NodeEntry {
  const index = zone.tree.choose(unit)
  const node = index === undefined ? undefined : zone.nodes[index]
  assert(node !== undefined, 'a zone that weighs something has a node that does')
  return node
}

/** A node has few disks: a walk over them is cheaper than a tree. */
function drawDisk(disks: ReadonlyMap<DiskNumber, number>, excluded: ReadonlySet<DiskNumber>, unit: number): DiskNumber {
  let rest = unit * sumOf(disks, excluded)
  let last: DiskNumber | undefined
  for (const [disk, weight] of disks) {
    if (weight === 0 || excluded.has(disk)) continue
    last = disk
    if (rest < weight) return disk
    rest -= weight
  }
  assert(last !== undefined, 'a node that weighs something has a disk that does')
  return last
}
