/**
 * Who runs the cluster, as far as a simulated run needs one: replaces meta nodes that lost their disk, grows and shrinks
 * the metadata service, moves leadership, sets quotas. All by the calls that an operator's tools make, one at a time.
 *
 * An operator does what the documentation says and no more: a healthy node is removed only when one more than at the
 * founding is there and none is lost; two of the founding addresses stay good, for that is what the others were told; a
 * change that did not come to its end is looked at again and taken further.
 */

import type { MetaHost } from './meta-host.ts'
import type { MetaCaller } from './meta-caller.ts'
import type { Seeded } from './seed.ts'
import { metaMethods } from '../wire/methods.ts'

export const operatorKinds = ['transfer', 'churn', 'quota'] as const
export type OperatorKind = (typeof operatorKinds)[number]

/** A change of the membership waits for the new node to catch up. */
const changeMs = 30_000
/** Members beyond those of the founding. */
const extraMax = 1

export interface OperatorOptions {
  readonly caller: MetaCaller
  readonly random: Seeded
  readonly metas: readonly MetaHost[]
  readonly bucket: string
  readonly founding: number
  /** A further meta node with an empty directory, not started. */
  readonly spare: () => MetaHost
  readonly note: (text: string) => void
}

export class Operator {
  readonly #options: OperatorOptions
  #busy: Promise<void> | undefined
  /** A quota may be in force. */
  #bounded = false
  /** Nodes that an operator added or wants gone, until the cluster says so. */
  readonly #toAdd = new Set<MetaHost>()
  readonly #toRemove = new Set<MetaHost>()
  /** Nodes that come back with an empty directory once they are out. */
  readonly #toRevive = new Set<MetaHost>()

  constructor(options: OperatorOptions) {
    this.#options = options
  }

  /** Begins something, unless something is under way. A failure of it is the caller's to see through the promise. */
  strike(kind: OperatorKind, failed: (error: unknown) => void): void {
    if (this.#busy !== undefined) return
    const work = kind === 'transfer' ? this.#transfer() : kind === 'quota' ? this.#quota() : this.#churn()
    this.#busy = work.catch(failed).finally(() => {
      this.#busy = undefined
    })
  }

  /** Brings what was begun to its end, replaces nodes that are lost, and takes bounds away. */
  async settle(): Promise<void> {
    while (this.#busy !== undefined) await this.#busy
    if (this.#bounded) {
      await this.#mustAsk('lift the quota', async () => {
        const bounds = { bucket: this.#options.bucket, bytesMax: 0, objectsMax: 0 }
        return (await this.#options.caller.ask(metaMethods.setQuota, bounds)).reply !== undefined
      })
    }
    for (const meta of this.#options.metas) if (meta.gone && !meta.removed) this.#replace(meta)
    await this.#mustAsk('change the membership', async () => {
      await this.#finishChanges()
      return this.#toAdd.size === 0 && this.#toRemove.size === 0
    })
  }

  /** Repeats `step` until it says that it is done; who waits for it has a limit. */
  async #mustAsk(what: string, step: () => Promise<boolean>): Promise<void> {
    for (;;) {
      if (await step()) return
      this.#options.note(`${what}: ${this.#options.caller.trouble}`)
      await this.#options.caller.wait(200)
    }
  }

  async #transfer(): Promise<void> {
    const { caller, random, metas } = this.#options
    const to = random.chance(0.5) ? '' : random.pick(metas).host.id
    const { reply } = await caller.ask(metaMethods.transferLeadership, { to }, 2000, 2000)
    this.#options.note(`transfer to ${to}: ${reply?.leader ?? caller.trouble}`)
  }

  /** A bound that is low enough to be met, or none. */
  async #quota(): Promise<void> {
    const { caller, random, bucket } = this.#options
    const bounds = random.chance(0.5)
      ? { bytesMax: 20_000 + random.below(200_000), objectsMax: 0 }
      : { bytesMax: 0, objectsMax: 1 + random.below(6) }
    this.#bounded = true
    const { reply } = await caller.ask(metaMethods.setQuota, { bucket, ...bounds }, 2000)
    this.#options.note(`quota ${JSON.stringify(bounds)}: ${reply === undefined ? caller.trouble : 'set'}`)
  }

  async #churn(): Promise<void> {
    const { random, metas, founding } = this.#options
    if (this.#toAdd.size + this.#toRemove.size > 0) return await this.#finishChanges()
    const members = metas.filter((meta) => !meta.removed)
    const lost = members.find((meta) => meta.gone)
    if (lost !== undefined) this.#replace(lost)
    else if (members.length < founding + extraMax) this.#add()
    else this.#remove(random.pick(members.filter((meta) => this.#maySpare(meta))))
    await this.#finishChanges()
  }

  /** Under another name, or under its own with an empty directory. */
  #replace(lost: MetaHost): void {
    const spare = this.#options.random.chance(0.5) && this.#maySpare(lost)
    this.#remove(lost)
    if (spare) this.#add()
    else this.#toRevive.add(lost)
  }

  /** Two of the addresses that everybody was told at the founding stay good. */
  #maySpare(meta: MetaHost): boolean {
    const { metas, founding } = this.#options
    const left = metas.slice(0, founding).filter((one) => !one.removed && one !== meta)
    return left.length >= 2
  }

  #add(): void {
    const meta = this.#options.spare()
    meta.joining = true
    meta.start()
    this.#toAdd.add(meta)
  }

  #remove(meta: MetaHost): void {
    // From here on it may learn that it is out, and end.
    meta.removed = true
    this.#toRemove.add(meta)
  }

  /** Removes first: a member that is lost for good counts against the majority until it is out. */
  async #finishChanges(): Promise<void> {
    for (const meta of this.#toRemove) {
      const { reply, error } = await this.#options.caller.ask(
        metaMethods.removeMetaMember,
        { id: meta.host.id, force: true },
        changeMs,
        changeMs,
      )
      const out = reply !== undefined || error?.code === 'NOT_FOUND'
      this.#options.note(`remove ${meta.host.id}: ${out ? 'done' : this.#options.caller.trouble}`)
      if (!out) return
      this.#toRemove.delete(meta)
      if (meta.host.alive) meta.crash()
      meta.gone = true
      if (!this.#toRevive.delete(meta)) continue
      meta.revive()
      this.#toAdd.add(meta)
    }
    for (const meta of this.#toAdd) await this.#addNow(meta)
  }

  /** One attempt; when it is refused, what the answer says is to be done before the next. */
  async #addNow(meta: MetaHost): Promise<void> {
    const { caller, note } = this.#options
    const { id } = meta.host
    if (!meta.host.alive) meta.start()
    const request = { id, address: meta.address }
    const { reply, error } = await caller.ask(metaMethods.addMetaMember, request, changeMs, changeMs)
    const inside = reply?.catchingUp === false || error?.code === 'ALREADY_EXISTS'
    note(`add ${id}: ${inside ? 'done' : caller.trouble}`)
    if (inside) {
      this.#toAdd.delete(meta)
      meta.joining = false
    } else if (error?.code === 'CONDITION_FAILED' && error.message.includes('meta remove')) {
      // It lost its directory while it was being added.
      await caller.ask(metaMethods.removeMetaMember, { id, force: true }, changeMs, changeMs)
    } else if (error?.code === 'CONDITION_FAILED' && error.message.includes('empty')) {
      // A leader that was lost half-way has left its entry in the new node's log.
      meta.revive()
    }
  }
}
