/** What operators ask the fake metadata leader: members, quotas, versions, held deletes. */

import { StoreError } from '../../src/model/errors.ts'
import type { holdfast } from '../../src/wire/messages.ts'

type Request = holdfast.v1.MetaRequest
type Reply = holdfast.v1.MetaReply.$Properties

export class FakeAdmin {
  members: holdfast.v1.MetaStatus.$Properties[] = ['m1', 'm2', 'm3'].map((id, at) => ({
    id,
    addresses: [`${id}:7400`],
    role: at === 0 ? 'leader' : 'follower',
    reachable: true,
    term: 3,
    applied: 100,
    versionMax: 2,
  }))
  readonly quotas = new Map<string, holdfast.v1.Quota.$Properties>()
  version = 1
  versions: holdfast.v1.NodeVersion.$Properties[] = [
    { id: 'm1', kind: 'meta', versionMax: 2 },
    { id: 's1', kind: 'storage', versionMax: 2 },
  ]
  held = false
  incarnation = 1
  unknownReplicas = 0
  scrub: holdfast.v1.ScrubStatusReply.$Properties = {}
  readonly directed: string[] = []
  /** How often a node that is added answers that it is still catching up. */
  catchUps = 0

  /** The answer; undefined for a call that is no operator's. */
  answer(request: Request): Reply | undefined {
    if (request.addMetaMember) return { addMetaMember: this.#add(request.addMetaMember) }
    if (request.removeMetaMember) return { removeMetaMember: this.#remove(request.removeMetaMember) }
    if (request.transferLeadership) {
      const to = request.transferLeadership.to || 'm2'
      if (!this.members.some(({ id }) => id === to)) throw new StoreError('NOT_FOUND', `no meta node ${to}`)
      this.members = this.members.map((one) => ({ ...one, role: one.id === to ? 'leader' : 'follower' }))
      return { transferLeadership: { leader: to, tookMs: 12 } }
    }
    if (request.setQuota) {
      const { bucket, bytesMax, objectsMax } = request.setQuota
      this.quotas.set(bucket, { bucket, bytesMax, objectsMax, bytes: 10, objects: 1 })
      return { setQuota: {} }
    }
    if (request.listQuotas) {
      const cluster = this.quotas.get('') ?? { bucket: '', bytes: 10, objects: 1 }
      return { listQuotas: { quotas: [cluster, ...[...this.quotas.values()].filter(({ bucket }) => bucket !== '')] } }
    }
    if (request.versionStatus) return { versionStatus: this.#versionStatus() }
    if (request.raiseVersion) {
      const wanted = request.raiseVersion.version || this.#possible()
      if (wanted > this.#possible()) throw new StoreError('CONDITION_FAILED', 'a node does not support it')
      this.version = Math.max(this.version, wanted)
      return { raiseVersion: this.#versionStatus() }
    }
    if (request.deletesStatus) return { deletesStatus: this.#deletes() }
    if (request.resumeDeletes) {
      this.held = false
      return { resumeDeletes: this.#deletes() }
    }
    if (request.scrubStatus) return { scrubStatus: this.scrub }
    if (request.directScrub) {
      const { action, node } = request.directScrub
      this.directed.push(`${action} ${node || 'all'}`)
      return { directScrub: { disks: node === '' ? 4 : 1, refused: node === 's4' ? ['s4, disk 4: too old'] : [] } }
    }
    return undefined
  }

  #add({ id, address }: holdfast.v1.AddMetaMemberRequest): holdfast.v1.MetaMembersReply.$Properties {
    const catchingUp = this.catchUps-- > 0
    const role = catchingUp ? 'learner' : 'follower'
    this.members = [
      ...this.members.filter((one) => one.id !== id),
      { id, addresses: [address], role, reachable: true, applied: catchingUp ? 50 : 100 },
    ]
    return { members: this.members, catchingUp }
  }

  #remove({ id, force }: holdfast.v1.RemoveMetaMemberRequest): holdfast.v1.MetaMembersReply.$Properties {
    if (!this.members.some((one) => one.id === id)) throw new StoreError('NOT_FOUND', `no meta node ${id}`)
    if (!force && this.members.length < 4) throw new StoreError('CONDITION_FAILED', 'the others could not lose one')
    this.members = this.members.filter((one) => one.id !== id)
    return { members: this.members }
  }

  #possible(): number {
    return Math.min(...this.versions.map(({ versionMax }) => versionMax ?? 0))
  }

  #versionStatus(): holdfast.v1.VersionStatusReply.$Properties {
    return { version: this.version, possible: this.#possible(), nodes: this.versions }
  }

  #deletes(): holdfast.v1.DeletesStatusReply.$Properties {
    return { held: this.held, incarnation: this.incarnation, unknownReplicas: this.unknownReplicas }
  }
}
