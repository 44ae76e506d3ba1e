/**
 * How the scrub of a disk is told: to meta with every heartbeat, to a monitoring system as gauges and counters.
 */

import type { Sample } from '../../ports/metrics.ts'
import type { holdfast } from '../../wire/messages.ts'
import type { DiskSlot } from './disks.ts'
import type { DiskEngine } from './types.ts'

/** For the disk's report in a heartbeat; nothing once the disk failed. */
export function scrubReport({
  engine,
  failed,
}: Pick<DiskSlot, 'engine' | 'failed'>): Pick<holdfast.v1.DiskReport.$Properties, 'scrub'> {
  if (failed) return {}
  const { rateBytesPerSecond, notes, ...rest } = engine.scrub()
  return { scrub: { ...rest, bytesPerSecond: rateBytesPerSecond, notes: [...notes] } }
}

/** For a scrape. */
export function scrubSamples(engine: DiskEngine): Sample[] {
  const { debtSeconds, scannedBytes, totalBytes, rateBytesPerSecond, findings, healed, finishedMs } = engine.scrub()
  const labels = { disk: engine.id, path: engine.path }
  const progress = totalBytes === 0 ? 1 : scannedBytes / totalBytes
  return [
    {
      name: 'holdfast_scrub_debt_seconds',
      help: 'By how much the pass will be older than the target period when it is done; 0 on target.',
      value: debtSeconds,
      labels,
    },
    { name: 'holdfast_scrub_pass_ratio', help: 'Part of the pass that is done.', value: progress, labels },
    {
      name: 'holdfast_scrub_rate_bytes_per_second',
      help: 'What the pass reads, over about the last minute.',
      value: rateBytesPerSecond,
      labels,
    },
    {
      name: 'holdfast_scrub_last_pass_timestamp_seconds',
      help: 'When the last full pass was done, since 1970; 0: none was.',
      value: Math.floor(finishedMs / 1000),
      labels,
    },
    {
      name: 'holdfast_scrub_findings_total',
      help: 'Replicas found not intact since the start, by anyone, and those kept in quarantine from before.',
      kind: 'counter',
      value: findings,
      labels,
    },
    {
      name: 'holdfast_scrub_healed_total',
      help: 'Small chunks that were renewed from the intact one of their two copies on the disk.',
      kind: 'counter',
      value: healed,
      labels,
    },
  ]
}
