/** The drivers behind what a meta node keeps in its directory: for the node itself, and for what works on it offline. */

import { join } from 'node:path'
import { createNodeEntropy } from '../drivers/entropy-node.ts'
import { openExtentFiles } from '../drivers/extents-node.ts'
import { createFiles } from '../drivers/files-node.ts'
import { createLevelFactory } from '../drivers/kv-level.ts'
import { type NodeStores, segmentsName } from '../services/meta/log-place.ts'

/** The state is written all the time and its records are many and small: what is merged less often costs less. */
const stateWriteBufferBytes = 64 * 1024 * 1024

export function metaStores(directory: string): NodeStores {
  return {
    files: createFiles(directory),
    kv: createLevelFactory(directory, { writeBufferBytes: stateWriteBufferBytes }),
    segments: () => openExtentFiles(join(directory, segmentsName)),
    entropy: createNodeEntropy(),
  }
}
