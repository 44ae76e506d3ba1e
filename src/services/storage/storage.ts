/**
 * The storage node: serves chunks of its disks to clients and other nodes, and stays attached to the meta leader.
 *
 * No metadata decision is taken here. Bounds: streams of the node, bytes waiting for room, disk reads at once; what is
 * above them is answered OVERLOADED.
 */

import { concatBytes } from '../../base/bytes.ts'
import { StoreError } from '../../model/errors.ts'
import type { NodeId, ZoneId } from '../../model/ids.ts'
import { limits } from '../../model/limits.ts'
import { diskStates } from '../../model/words.ts'
import type { Env } from '../../ports/env.ts'
import type { Sample } from '../../ports/metrics.ts'
import type { CallContext, NetServer } from '../../ports/net.ts'
import { safeCounter } from '../../wire/checks.ts'
import type { holdfast } from '../../wire/messages.ts'
import { storageMethods } from '../../wire/methods.ts'
import { Attach } from './attach.ts'
import { Waiting } from './bounds.ts'
import { serveChunkStream } from './chunk-stream.ts'
import { type DiskFault, Disks } from './disks.ts'
import { scrubSamples } from './scrub-report.ts'
import { finishPut, planPut, type PutDoneOut } from './put.ts'
import type { ChunkReader, DiskEngine } from './types.ts'

/** Chunk streams of all clients at once. */
const streamsMax = 1024
/** Bytes held for puts that wait for room in an arena. */
const waitingBytesMax = 32 * 1024 * 1024

export interface StorageNodeConfig {
  readonly id: NodeId
  readonly zone: ZoneId
  /** Addresses that clients and peers shall use. */
  readonly advertise: readonly string[]
  readonly meta: readonly string[]
  readonly heartbeatMs: number
  readonly metaSilenceMs: number
  /** Directories that could not be opened, for meta to know. */
  readonly faults?: readonly DiskFault[]
}

export interface StorageNode {
  /** Registers the Storage service. */
  bind(server: NetServer): void
  /** Attaches to meta. `addresses` replaces the advertised ones when the port was not known before. */
  start(addresses?: readonly string[]): void
  /** Says goodbye, refuses new puts, closes the disks in order. */
  stop(): Promise<void>
  /** True while an I/O of a failed disk has not returned: the process cannot exit in order before it does. */
  readonly hung: boolean
  /** True while the node takes reads and writes. */
  ready(): boolean
  /** Why it does not, in a few words; undefined while it does. */
  notReady(): string | undefined
  /** The state of its disks as gauges, from memory. */
  samples(): readonly Sample[]
}

async function readWhole(reader: ChunkReader): Promise<holdfast.v1.GetChunkReply.$Properties> {
  try {
    const { length, root, blockSums, offset, bytes } = reader
    if (bytes > limits.unaryChunkBytesMax) {
      throw new StoreError(
        'INVALID_ARGUMENT',
        `read chunk: ${bytes} bytes in one message; ask for at most 1 MiB or use Chunks`,
      )
    }
    const pieces: Uint8Array[] = []
    for (;;) {
      const piece = await reader.next()
      if (piece === undefined) break
      pieces.push(piece)
    }
    return { begin: { length, root, blockSums, offset, bytes }, data: concatBytes(pieces) }
  } finally {
    reader.close()
  }
}

class StorageNodeService implements StorageNode {
  readonly #env: Env
  readonly #engines: readonly DiskEngine[]
  readonly #config: StorageNodeConfig
  readonly #disks: Disks
  readonly #onFatal: (error: StoreError) => void
  readonly #waiting = new Waiting(waitingBytesMax)
  #attach: Attach | undefined
  #inflightBytes = 0
  #streams = 0
  #stopped = false

  constructor(
    env: Env,
    engines: readonly DiskEngine[],
    config: StorageNodeConfig,
    onFatal: (error: StoreError) => void,
  ) {
    this.#env = env
    this.#engines = engines
    this.#config = config
    this.#onFatal = onFatal
    this.#disks = new Disks(engines, env.clock, env.log, config.metaSilenceMs, () => this.#attach?.changed())
  }

  bind(server: NetServer): void {
    server.stream(storageMethods.chunks, (stream) => {
      if (this.#streams >= streamsMax || this.#stopped) {
        const code = this.#stopped ? 'SHUTTING_DOWN' : 'OVERLOADED'
        stream.destroy(new StoreError(code, 'chunk stream: this node takes no more streams now; use another one'))
        return
      }
      this.#streams += 1
      serveChunkStream(stream, {
        disks: this.#disks,
        clock: this.#env.clock,
        waiting: this.#waiting,
        inflight: (deltaBytes) => {
          this.#inflightBytes += deltaBytes
        },
        onOver: () => {
          this.#streams -= 1
        },
      })
    })
    server.unary(storageMethods.putChunk, (request, context) => this.#putChunk(request, context))
    server.unary(storageMethods.getChunk, (request) => this.#getChunk(request))
  }

  async #putChunk(request: holdfast.v1.PutChunkRequest, context: CallContext): Promise<PutDoneOut> {
    if (!request.begin) throw new StoreError('INVALID_ARGUMENT', 'store a chunk: the field begin is missing')
    if (request.data.length !== request.begin.length || request.data.length > limits.unaryChunkBytesMax) {
      throw new StoreError(
        'INVALID_ARGUMENT',
        'store a chunk: data must be begin.length bytes, at most 1 MiB; use Chunks for more',
      )
    }
    const plan = planPut(this.#disks, request.begin)
    this.#inflightBytes += plan.request.length
    try {
      const writer = await plan.slot.engine.beginPut(plan.request, context.signal)
      try {
        writer.write(request.data)
      } catch (error) {
        writer.abort()
        throw error
      }
      return await finishPut(this.#disks, plan, writer)
    } finally {
      this.#inflightBytes -= plan.request.length
    }
  }

  async #getChunk(request: holdfast.v1.Get): Promise<holdfast.v1.GetChunkReply.$Properties> {
    const length = safeCounter(request.length, 'length', limits.chunkBytesMax)
    const offset = safeCounter(request.offset, 'offset', limits.chunkBytesMax)
    const id = safeCounter(request.id, 'id')
    const { reader } = await this.#disks.openRead(safeCounter(request.disk, 'disk'), id, offset, length)
    return readWhole(reader)
  }

  start(addresses: readonly string[] = this.#config.advertise): void {
    const { id, zone, meta, heartbeatMs, metaSilenceMs, faults = [] } = this.#config
    this.#attach = new Attach(this.#env, this.#disks, {
      id,
      zone,
      addresses,
      meta,
      heartbeatMs,
      metaSilenceMs,
      faults,
      inflightBytes: () => this.#inflightBytes,
      onFatal: this.#onFatal,
    })
    this.#attach.start()
  }

  async stop(): Promise<void> {
    if (this.#stopped) return
    this.#stopped = true
    this.#disks.stop()
    this.#attach?.stop()
    const closed = await Promise.allSettled(this.#engines.map((engine) => engine.close()))
    for (const [i, result] of closed.entries()) {
      if (result.status === 'fulfilled') continue
      this.#env.log.error('disk did not close in order', {
        path: this.#engines[i]?.path,
        reason: String(result.reason),
      })
    }
  }

  get hung(): boolean {
    return this.#engines.some((engine) => engine.hung === true)
  }

  ready(): boolean {
    return this.notReady() === undefined
  }

  notReady(): string | undefined {
    if (this.#stopped) return 'stopping'
    if (this.#attach === undefined) return 'starting'
    if (this.#disks.allFailed) return 'every disk of it has failed'
    return this.#attach.attached ? undefined : 'no contact with meta'
  }

  samples(): readonly Sample[] {
    return this.#engines.flatMap((engine) => {
      const { state, capacityBytes, usedBytes, chunks } = engine.status()
      const labels = { disk: engine.id, path: engine.path }
      return [
        { name: 'holdfast_disk_capacity_bytes', help: 'Size of the filesystem.', value: capacityBytes, labels },
        { name: 'holdfast_disk_used_bytes', help: 'Bytes in use on the filesystem.', value: usedBytes, labels },
        { name: 'holdfast_disk_chunks', help: 'Replicas on the disk.', value: chunks, labels },
        ...scrubSamples(engine),
        ...diskStates.map((one) => ({
          name: 'holdfast_disk_state',
          help: '1 for the state that the disk is in, 0 for the others.',
          value: one === state ? 1 : 0,
          labels: { ...labels, state: one },
        })),
      ]
    })
  }
}

/**
 * A storage node over open disks. `onFatal` is called when it can never attach (WRONG_CLUSTER, INCOMPATIBLE_VERSION): the
 * process shall end with that error.
 */
export function createStorageNode(
  env: Env,
  engines: readonly DiskEngine[],
  config: StorageNodeConfig,
  onFatal: (error: StoreError) => void,
): StorageNode {
  return new StorageNodeService(env, engines, config, onFatal)
}
