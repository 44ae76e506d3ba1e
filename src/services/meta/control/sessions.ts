/**
 * Attached storage nodes: registration, heartbeats, and the one live stream per node that orders go out on.
 *
 * A stream's first message is Register. The node is attached with its first heartbeat after the registration was
 * committed and answered: before it, the node may still be writing its new identity and cannot take orders. A second
 * stream of the same node takes the place of the first. Nothing that comes on a stream is believed before its
 * registration, and fields are checked here, at the door.
 */

import type { SpeedFigures } from '../../../core/health/slow.ts'
import { versionOf } from '../../../core/meta/commands.ts'
import { isAddress } from '../../../model/address.ts'
import { asStoreError, StoreError } from '../../../model/errors.ts'
import { type DiskNumber, formatChunkId, isHexId, isNodeId, type NodeId } from '../../../model/ids.ts'
import { quote } from '../../../model/names.ts'
import { type DiskState, diskStates, scrubStates } from '../../../model/words.ts'
import { hexId, nameOf, safeCounter } from '../../../wire/checks.ts'
import type { holdfast } from '../../../wire/messages.ts'
import { type NodeStream, Orders } from './orders.ts'
import type { ScrubFacts } from './scrub-control.ts'
import { notLeader, type Term } from './term.ts'

export interface SessionDisk {
  readonly id: string
  readonly number: DiskNumber
  readonly generation: number
}

export interface Session {
  readonly node: NodeId
  readonly incarnation: string
  /** In the order of Register and of every heartbeat. */
  readonly disks: readonly SessionDisk[]
  readonly orders: Orders
}

/** What a heartbeat said, checked. */
export interface HeartbeatFacts {
  readonly inflightBytes: number
  readonly disks: readonly {
    readonly number: DiskNumber
    readonly generation: number
    readonly state: DiskState
    readonly capacityBytes: number
    readonly usedBytes: number
    readonly freeForNewBytes: number
    readonly chunks: number
    readonly reason: string
    readonly speed: SpeedFigures
    /** Undefined from a node that does not scrub. */
    readonly scrub: ScrubFacts | undefined
  }[]
  readonly corrupt: readonly { readonly chunk: number; readonly disk: DiskNumber; readonly finding: string }[]
  /** Directories that the node could not open. */
  readonly faults: readonly { readonly path: string; readonly reason: string }[]
}

export interface SessionEvents {
  attached(session: Session): void
  heard(session: Session): void
  /** The answer to the heartbeat is sent when the promise resolves, and not at all when it rejects. */
  heartbeat(session: Session, facts: HeartbeatFacts): Promise<void> | undefined
  lost(session: Session, orderly: boolean): void
}

const disksPerNodeMax = 256
const findingBytesMax = 500
const reasonBytesMax = 300
const notesMax = 16

export class Sessions {
  readonly #term: Term
  readonly #events: SessionEvents
  readonly #loaded: Promise<void>
  readonly #byNode = new Map<NodeId, Session>()
  readonly #byDisk = new Map<DiskNumber, Session>()
  readonly #streams = new Set<NodeStream>()
  readonly #versions = new Map<NodeId, number>()
  #orders = 0

  /** Registrations wait for `loaded`: the view of the nodes they are about. */
  constructor(term: Term, events: SessionEvents, loaded: Promise<void>) {
    this.#term = term
    this.#events = events
    this.#loaded = loaded
  }

  of(node: NodeId): Session | undefined {
    return this.#byNode.get(node)
  }

  /** The session of the node that holds the disk, when it is attached. */
  ofDisk(disk: DiskNumber): Session | undefined {
    return this.#byDisk.get(disk)
  }

  all(): Session[] {
    return [...this.#byNode.values()]
  }

  /** Highest version that the node's program supports; 0 when it did not register in this term. */
  versionOf(node: NodeId): number {
    return this.#versions.get(node) ?? 0
  }

  /** Takes a new stream. */
  accept(stream: NodeStream): void {
    let session: Session | undefined
    let registering = false
    let attached = false
    let orderly = false
    this.#streams.add(stream)
    stream.onDrain(() => undefined)
    stream.onEnd(() => stream.end())
    stream.onClose((error) => {
      this.#streams.delete(stream)
      if (session !== undefined) this.#lost(session, orderly, error)
    })
    stream.onMessage((message) => {
      if (session !== undefined) {
        if (message.goodbye) orderly = true
        if (message.heartbeat && !attached) {
          attached = true
          this.#enter(session)
        }
        this.#message(session, stream, message)
      } else if (message.register && !registering) {
        registering = true
        this.#register(stream, message.register)
          .then((made) => {
            session = made
          })
          .catch((error: unknown) => stream.destroy(asStoreError(error, 'register a storage node')))
      } else if (!registering) {
        stream.destroy(new StoreError('INVALID_ARGUMENT', 'attach: the first message must be Register'))
      }
    })
  }

  /** Ends the session of a node that was fenced, so that it registers again. */
  fence(node: NodeId, reason: string): void {
    this.#byNode.get(node)?.orders.close(new StoreError('FENCED', `node ${node} must register again: ${reason}`))
  }

  /** Ends every session: all nodes register again. */
  fenceAll(reason: string): void {
    for (const node of this.#byNode.keys()) this.fence(node, reason)
  }

  /** The term is over. */
  end(): void {
    const error = notLeader(this.#term.replicator)
    for (const session of this.#byNode.values()) session.orders.gone(error)
    for (const stream of this.#streams) stream.destroy(error)
    this.#byNode.clear()
    this.#byDisk.clear()
  }

  async #register(stream: NodeStream, request: holdfast.v1.Register): Promise<Session> {
    await this.#loaded
    this.#term.check()
    if (request.termSeen > this.#term.fence) throw notLeader(this.#term.replicator)
    const cluster = await this.#term.queries.cluster()
    if (cluster === undefined) throw notLeader(this.#term.replicator)
    if (request.clusterId !== '' && request.clusterId !== cluster.clusterId) {
      throw new StoreError(
        'WRONG_CLUSTER',
        `node ${request.node} belongs to cluster ${request.clusterId}, this one is ${cluster.clusterId}: check --meta and the disks`,
      )
    }
    if (request.versionMax < cluster.version) {
      throw new StoreError(
        'INCOMPATIBLE_VERSION',
        `node ${request.node} supports version ${request.versionMax}, the cluster runs ${cluster.version}: upgrade it`,
      )
    }
    const proposal = registration(request)
    await this.#reserveIds(request, cluster.nextChunk)
    const reply = await this.#term.propose(proposal)
    if (!reply.ok) throw new StoreError(reply.code, reply.message)
    if (reply.kind !== 'registered') throw new StoreError('INTERNAL', 'registerNode was answered by another reply')
    this.#term.check()
    if (!this.#streams.has(stream)) throw new StoreError('CANCELLED', `node ${request.node} went away`)
    const orders = new Orders(this.#term, request.node, stream, () => ++this.#orders)
    const { node, incarnation } = request
    const session: Session = { node, incarnation, disks: [...reply.disks], orders }
    this.#versions.set(node, request.versionMax)
    stream.send({
      term: this.#term.fence,
      registered: {
        clusterId: cluster.clusterId,
        disks: reply.disks.map((disk) => ({ ...disk })),
        clusterVersion: cluster.version,
      },
    })
    return session
  }

  /**
   * A disk that holds an id beyond every one that was handed out is newer than this metadata: its ids must not be handed
   * out again, and nothing may be deleted until someone has looked (docs/RULES.md, rule 2).
   */
  async #reserveIds(request: holdfast.v1.Register, nextChunk: number): Promise<void> {
    let highest = 0
    for (const disk of request.disks) highest = Math.max(highest, safeCounter(disk.chunkIdMax, 'chunk_id_max'))
    if (highest < nextChunk) return
    if (this.#term.version < versionOf('reserveChunkIds', this.#term.toldIncarnation > 1)) return
    this.#term.log.warn('a disk holds chunks newer than the metadata: deletes are held', {
      node: request.node,
      chunk: formatChunkId(highest),
    })
    const reply = await this.#term.propose({ kind: 'reserveChunkIds', above: highest + 1 })
    if (!reply.ok) throw new StoreError(reply.code, `register ${request.node}: ${reply.message}`)
  }

  #enter(session: Session): void {
    const before = this.#byNode.get(session.node)
    if (before !== undefined) {
      this.#term.log.info('node attached again, its older stream ends', { node: session.node })
      for (const disk of before.disks) this.#byDisk.delete(disk.number)
    }
    this.#byNode.set(session.node, session)
    for (const disk of session.disks) this.#byDisk.set(disk.number, session)
    before?.orders.close(new StoreError('FENCED', `node ${session.node} attached again on another stream`))
    this.#events.attached(session)
  }

  #lost(session: Session, orderly: boolean, error: StoreError | undefined): void {
    session.orders.gone(error ?? new StoreError('UNAVAILABLE', 'its stream ended'))
    if (this.#byNode.get(session.node) !== session) return
    this.#byNode.delete(session.node)
    for (const disk of session.disks) this.#byDisk.delete(disk.number)
    if (!this.#term.over) this.#events.lost(session, orderly)
  }

  #message(session: Session, stream: NodeStream, message: holdfast.v1.NodeMessage): void {
    if (this.#byNode.get(session.node) !== session) return
    this.#events.heard(session)
    try {
      if (message.heartbeat) this.#heartbeat(session, stream, message.heartbeat)
      else if (message.result) session.orders.onResult(message.result)
      else if (message.report) session.orders.onReport(message.report)
    } catch (error) {
      session.orders.close(asStoreError(error, `message of node ${session.node}`))
    }
  }

  /** Where the meta nodes say that they are reached; the configured addresses until they have told. */
  #metaAddresses(): string[] {
    const told = this.#term.replicator.status().peers.flatMap((peer) => peer.addresses)
    return told.length > 0 ? told : this.#term.config.peers.map((peer) => peer.address)
  }

  #heartbeat(session: Session, stream: NodeStream, heartbeat: holdfast.v1.Heartbeat): void {
    const waits = this.#events.heartbeat(session, heartbeatFacts(session, heartbeat))
    const answer = (): void => {
      if (this.#byNode.get(session.node) !== session) return
      stream.send({ term: this.#term.fence, beat: { sequence: heartbeat.sequence, meta: this.#metaAddresses() } })
    }
    if (waits === undefined) answer()
    else waits.then(answer).catch((error: unknown) => this.#term.report('findings of a heartbeat', error))
  }
}

function heartbeatFacts(session: Session, heartbeat: holdfast.v1.Heartbeat): HeartbeatFacts {
  const disks: HeartbeatFacts['disks'][number][] = []
  for (const [index, report] of heartbeat.disks.entries()) {
    const disk = session.disks[index]
    if (disk === undefined) break
    disks.push({
      number: disk.number,
      generation: disk.generation,
      ...diskFacts(report),
      scrub: scrubFacts(report.scrub),
    })
  }
  const own = new Set(session.disks.map((disk) => disk.number))
  const corrupt = heartbeat.corrupt
    .filter((found) => own.has(found.disk) && Number.isSafeInteger(found.chunk) && found.chunk > 0)
    .map((found) => ({ chunk: found.chunk, disk: found.disk, finding: found.finding.slice(0, findingBytesMax) }))
  const faults = heartbeat.faults
    .slice(0, disksPerNodeMax)
    .map(({ path, reason }) => ({ path: oneLine(path), reason: oneLine(reason) }))
  return { inflightBytes: safeCounter(heartbeat.inflightBytes, 'inflight_bytes'), disks, corrupt, faults }
}

/** Text of a node's as it may be shown. */
function oneLine(text: string): string {
  return text.slice(0, reasonBytesMax).replace(/[\p{Cc}\p{Cf}]/gu, ' ')
}

function diskFacts(report: holdfast.v1.DiskReport): {
  state: DiskState
  capacityBytes: number
  usedBytes: number
  freeForNewBytes: number
  chunks: number
  reason: string
  speed: SpeedFigures
} {
  return {
    state: nameOf(report.state, diskStates, 'state'),
    capacityBytes: safeCounter(report.capacityBytes, 'capacity_bytes'),
    usedBytes: safeCounter(report.usedBytes, 'used_bytes'),
    freeForNewBytes: safeCounter(report.freeForNewBytes, 'free_for_new_bytes'),
    chunks: safeCounter(report.chunks, 'chunks'),
    reason: oneLine(report.reason),
    speed: {
      syncMs: safeCounter(report.syncUs, 'sync_us') / 1000,
      readMs: safeCounter(report.readUs, 'read_us') / 1000,
    },
  }
}

function scrubFacts(report: holdfast.v1.ScrubReport | null | undefined): ScrubFacts | undefined {
  if (report === null || report === undefined) return undefined
  return {
    state: nameOf(report.state, scrubStates, 'scrub.state'),
    pass: safeCounter(report.pass, 'scrub.pass'),
    scannedBytes: safeCounter(report.scannedBytes, 'scrub.scanned_bytes'),
    totalBytes: safeCounter(report.totalBytes, 'scrub.total_bytes'),
    bytesPerSecond: safeCounter(report.bytesPerSecond, 'scrub.bytes_per_second'),
    debtSeconds: safeCounter(report.debtSeconds, 'scrub.debt_seconds'),
    startedMs: safeCounter(report.startedMs, 'scrub.started_ms'),
    finishedMs: safeCounter(report.finishedMs, 'scrub.finished_ms'),
    findings: safeCounter(report.findings, 'scrub.findings'),
    healed: safeCounter(report.healed, 'scrub.healed'),
    suspects: safeCounter(report.suspects, 'scrub.suspects'),
    direct: report.direct,
    notes: report.notes.slice(0, notesMax).map((note) => note.slice(0, findingBytesMax)),
  }
}

function registration(request: holdfast.v1.Register): {
  kind: 'registerNode'
  node: NodeId
  addresses: string[]
  zone: string
  incarnation: string
  disks: { id: string; state: DiskState; capacityBytes: number; usedBytes: number }[]
} {
  if (!isNodeId(request.node)) {
    throw new StoreError('INVALID_ARGUMENT', 'register: the node id is not valid: use a-z, 0-9, ".", "_" and "-"')
  }
  if (request.addresses.length === 0 || request.addresses.length > 8) {
    throw new StoreError('INVALID_ARGUMENT', `register ${request.node}: give 1 to 8 addresses`)
  }
  const bad = request.addresses.find((address) => !isAddress(address))
  if (bad !== undefined) {
    throw new StoreError('INVALID_ARGUMENT', `register ${request.node}: address ${quote(bad)} is not host:port`)
  }
  if (request.zone === '' || request.zone.length > 63) {
    throw new StoreError('INVALID_ARGUMENT', `register ${request.node}: give a zone of 1 to 63 characters`)
  }
  const ids = new Set(request.disks.map((disk) => disk.id))
  if (ids.size !== request.disks.length || ids.size === 0 || ids.size > disksPerNodeMax) {
    throw new StoreError('INVALID_ARGUMENT', `register ${request.node}: give 1 to ${disksPerNodeMax} different disks`)
  }
  if (!request.disks.every((disk) => isHexId(disk.id))) {
    throw new StoreError('INVALID_ARGUMENT', `register ${request.node}: a disk id is not 32 hex digits`)
  }
  return {
    kind: 'registerNode',
    node: request.node,
    addresses: [...request.addresses],
    zone: request.zone,
    incarnation: hexId(request.incarnation, 'incarnation'),
    disks: request.disks.map((disk) => {
      const { state, capacityBytes, usedBytes } = diskFacts(disk)
      return { id: disk.id, state, capacityBytes, usedBytes }
    }),
  }
}
