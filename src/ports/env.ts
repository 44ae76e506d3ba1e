/**
 * The world as one bundle: what a service gets to touch it with. A service cannot tell the drivers from the simulator.
 */

import type { Clock } from './clock.ts'
import type { Entropy } from './entropy.ts'
import type { Hasher } from './hasher.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'
import type { NetClient } from './net.ts'

export interface Env {
  readonly clock: Clock
  readonly entropy: Entropy
  readonly hasher: Hasher
  readonly net: NetClient
  readonly log: Log
  readonly metrics: Metrics
}
