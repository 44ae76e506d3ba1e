/**
 * Snapshots of a simulated node: taken and streamed to a follower in pieces, received and put in place. The order of an
 * install is that of `src/services/meta/raft-snapshots.ts`: install record, pieces, new state durable, appends held and the
 * offer looked at again, state replaced, log reset in one batch, only then acknowledged. A crash may come between any two.
 */

import type { SnapshotOffer } from '../../core/raft/messages.ts'
import type { Raft } from '../../core/raft/raft.ts'
import type { SnapshotMark } from '../../core/raft/types.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Loop, Process } from './loop.ts'
import { type Image, type Machine, markImage } from './machine.ts'
import type { FrameHead } from './net.ts'
import type { RaftPlan } from './plan.ts'
import type { SimStore } from './store.ts'

/** A snapshot on its way. */
export interface Transfer {
  readonly head: FrameHead
  readonly offer: SnapshotOffer
  readonly image: Image
  /** Tells the sender how it ended. */
  readonly ended: (installed: boolean) => void
}

/** What snapshots need of their node. */
export interface InstallHost {
  readonly loop: Loop
  readonly owner: Process
  readonly node: { readonly id: NodeId; readonly incarnation: string }
  readonly plan: RaftPlan
  readonly core: Raft
  readonly store: SimStore
  readonly machine: Machine
  onMachine(use: (release: () => void) => void): void
  /** Carries a transfer to its receiver, piece by piece. */
  carry(transfer: Transfer): void
  /** This node has installed what it received, or given up. */
  answered(transfer: Transfer, installed: boolean): void
  installed(mark: SnapshotMark): void
  pump(): void
  fatal(reason: string): void
}

export class Installs {
  readonly #host: InstallHost
  installing = false

  constructor(host: InstallHost) {
    this.#host = host
  }

  /** Streams the current state to `to`. */
  send(to: NodeId, term: number): void {
    const { core, machine, loop, owner, node } = this.#host
    this.#host.onMachine((release) => {
      const member = core.config.config.members.find((item) => item.id === to)
      // A witness takes the mark alone.
      const image = member?.role === 'witness' ? markImage(machine.image()) : machine.image()
      const config = core.log.configAt(image.index)
      const offer: SnapshotOffer = {
        kind: 'snapshot',
        from: node.id,
        to,
        term,
        session: core.sessionOf(to),
        index: image.index,
        indexTerm: core.log.term(image.index) ?? image.term,
        configIndex: config.index,
        config: config.config,
      }
      const { life } = owner
      let over = false
      const ended = (installed: boolean): void => {
        if (over || owner.life !== life) return
        over = true
        loop.after(0, 'image', owner, () => {
          core.snapshotSent(to, installed, offer.index)
          this.#host.pump()
        })
      }
      const head = { from: node.id, incarnation: node.incarnation, configIndex: core.config.index, to }
      this.#host.carry({ head, offer, image, ended })
      release()
    })
  }

  /** The first piece has arrived: prepares the install. Gives what hears of the end; undefined when it is refused. */
  begin(transfer: Transfer): ((whole: boolean) => void) | undefined {
    const { core, store, onMachine } = this.#host
    const { offer } = transfer
    if (this.installing) return undefined
    core.offerSnapshot(offer)
    this.#host.pump()
    if (!core.wantsSnapshot(offer)) return undefined
    this.installing = true
    const mark: SnapshotMark = {
      index: offer.index,
      term: offer.indexTerm,
      config: { index: offer.configIndex, config: offer.config },
    }
    let arrived: boolean | undefined
    let proceed: (() => void) | undefined
    onMachine((release) => {
      store.beginInstall(mark, (worked) => {
        if (!worked) {
          this.#host.fatal('the install record could not be written')
          return
        }
        proceed = () => {
          if (arrived === true) this.#build(transfer, mark, release)
          else this.#cancel(transfer, release)
        }
        if (arrived !== undefined) proceed()
      })
    })
    return (whole) => {
      // What happens to the stream behind its last piece does not matter any more.
      if (arrived !== undefined) return
      arrived = whole
      proceed?.()
    }
  }

  /** The new state is made beside the old one, while the log goes on. */
  #build(transfer: Transfer, mark: SnapshotMark, release: () => void): void {
    const { loop, owner, plan } = this.#host
    loop.after(plan.disk.syncUs * 2, 'install', owner, () => this.#gate(transfer, mark, release))
  }

  /** The new state is durable: the log stands still, and the snapshot is still wanted. */
  #gate(transfer: Transfer, mark: SnapshotMark, release: () => void): void {
    const { core, loop, owner, plan } = this.#host
    if (core.hasUnsaved || !core.hold(true)) {
      core.hold(false)
      this.#host.pump()
      loop.after(plan.disk.syncUs, 'install', owner, () => this.#gate(transfer, mark, release))
      return
    }
    if (!core.wantsSnapshot(transfer.offer)) {
      this.#cancel(transfer, release)
      return
    }
    this.#replace(transfer, mark, release)
  }

  #replace(transfer: Transfer, mark: SnapshotMark, release: () => void): void {
    const { core, store, machine, loop, owner, plan } = this.#host
    loop.after(plan.disk.syncUs, 'install', owner, () => {
      machine.install(transfer.image)
      store.finishInstall(mark, core.keepsSuffix(mark), (worked) => {
        if (!worked) {
          this.#host.fatal('the log could not be reset')
          return
        }
        core.snapshotInstalled(mark, transfer.offer)
        this.#host.installed(mark)
        this.#finish(transfer, true, release)
      })
    })
  }

  #cancel(transfer: Transfer, release: () => void): void {
    this.#host.store.cancelInstall((worked) => {
      if (worked) this.#finish(transfer, false, release)
      else this.#host.fatal('the install record could not be removed')
    })
  }

  #finish(transfer: Transfer, installed: boolean, release: () => void): void {
    this.installing = false
    this.#host.core.hold(false)
    release()
    this.#host.pump()
    this.#host.answered(transfer, installed)
  }
}
