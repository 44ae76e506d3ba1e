/**
 * One large file through a real local cluster: put and get rates, CPU seconds per GB over all processes, peak memory,
 * beside the machine's floors of the same run. Usage: npm run bench -- large-file [--gib 5] [--dir DIR]
 */

import { createHash, randomBytes } from 'node:crypto'
import { createReadStream, mkdtempSync } from 'node:fs'
import { mkdir, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { appendFloor, tcpFloor } from './lib/floors.ts'
import { clusterPids, cpuSeconds, peakMebibytes, runCli, startCluster } from './lib/processes.ts'

async function writeRandomFile(path: string, bytes: number): Promise<void> {
  const block = randomBytes(8 << 20)
  const file = await open(path, 'w')
  try {
    for (let at = 0; at < bytes; at += block.length) {
      block.writeBigUInt64LE(BigInt(at), 0)
      await file.write(block, 0, Math.min(block.length, bytes - at), at)
    }
  } finally {
    await file.close()
  }
}

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(piece as Buffer)
  return hash.digest('hex')
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      gib: { type: 'string', default: '5' },
      dir: { type: 'string' },
      write: { type: 'string', default: 'quorum' },
    },
  })
  const bytes = Math.round(Number(values.gib) * 2 ** 30)
  const scratch = mkdtempSync(join(values.dir ?? tmpdir(), 'holdfast-bench-'))
  const source = join(scratch, 'source')
  const copy = join(scratch, 'copy')
  const floorBytes = Math.min(bytes, 2 ** 30)
  await mkdir(join(scratch, 'floor'))
  const floors = {
    append: await appendFloor(join(scratch, 'floor'), floorBytes, 1),
    appendThree: await appendFloor(join(scratch, 'floor'), floorBytes, 3),
    tcp: await tcpFloor(floorBytes * 2),
  }
  await writeRandomFile(source, bytes)
  const cluster = await startCluster(join(scratch, 'cluster'), ['--port', '17400'])
  try {
    const meta = cluster.file.meta.map((node) => node.address).join(',')
    const pids = clusterPids(cluster.file)
    const cpuOf = (): number => pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0)
    await runCli(['mb', 'bench', '--meta', meta])
    const before = cpuOf()
    const put = await runCli(['put', source, 'bench/file', '--write', values.write, '--meta', meta])
    const afterPut = cpuOf()
    const get = await runCli(['get', 'bench/file', copy, '--meta', meta])
    const afterGet = cpuOf()
    const gigabytes = bytes / 1e9
    const result = {
      gib: bytes / 2 ** 30,
      write: values.write,
      floors,
      put: {
        megabytesPerSecond: bytes / 1e6 / put.seconds,
        cpuSecondsPerGigabyte: (put.cpu + afterPut - before) / gigabytes,
        clientPeakMebibytes: put.peakMebibytes,
      },
      get: {
        megabytesPerSecond: bytes / 1e6 / get.seconds,
        cpuSecondsPerGigabyte: (get.cpu + afterGet - afterPut) / gigabytes,
        clientPeakMebibytes: get.peakMebibytes,
      },
      peakMebibytes: {
        meta: cluster.file.meta.map((node) => peakMebibytes(node.pid)),
        storage: cluster.file.storage.map((node) => peakMebibytes(node.pid)),
      },
      identical: (await sha256(source)) === (await sha256(copy)),
    }
    process.stdout.write(`${JSON.stringify(result, null, 2)}\n`)
    if (!result.identical) process.exitCode = 1
  } finally {
    await cluster.stop()
    await rm(scratch, { recursive: true, force: true })
  }
}

await main()
