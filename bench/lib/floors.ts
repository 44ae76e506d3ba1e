/**
 * The floors of this machine, measured in the same run as Holdfast: what a small Node program reaches with the bare disk
 * and with bare TCP. Ratios to these travel between machines; the absolute figures do not.
 */

import { open, unlink } from 'node:fs/promises'
import { createServer, connect, type AddressInfo } from 'node:net'
import { join } from 'node:path'

export interface Rate {
  readonly megabytesPerSecond: number
  readonly cpuSecondsPerGigabyte: number
}

function rateOf(bytes: number, seconds: number, cpu: NodeJS.CpuUsage): Rate {
  return {
    megabytesPerSecond: bytes / 1e6 / seconds,
    cpuSecondsPerGigabyte: (cpu.user + cpu.system) / 1e6 / (bytes / 1e9),
  }
}

/** Appends `bytes` in 1 MiB writes to `files` growing files at once, each write followed by fdatasync. */
export async function appendFloor(directory: string, bytes: number, files: number): Promise<Rate> {
  const block = Buffer.alloc(1 << 20, 0x5a)
  const each = Math.floor(bytes / files / block.length)
  const startCpu = process.cpuUsage()
  const start = process.hrtime.bigint()
  await Promise.all(
    Array.from({ length: files }, async (_, index) => {
      const path = join(directory, `floor-${index}`)
      const file = await open(path, 'w')
      try {
        for (let i = 0; i < each; i++) {
          await file.write(block, 0, block.length, i * block.length)
          await file.datasync()
        }
      } finally {
        await file.close()
        await unlink(path)
      }
    }),
  )
  const seconds = Number(process.hrtime.bigint() - start) / 1e9
  return rateOf(each * files * block.length, seconds, process.cpuUsage(startCpu))
}

/** Sends `bytes` over one loopback TCP connection within this process, in 512 KiB writes. */
export async function tcpFloor(bytes: number): Promise<Rate> {
  const block = Buffer.alloc(512 << 10, 0x5a)
  const startCpu = process.cpuUsage()
  const start = process.hrtime.bigint()
  await new Promise<void>((resolve, reject) => {
    const server = createServer((socket) => {
      let received = 0
      socket.on('data', (piece) => {
        received += piece.length
        if (received >= bytes) {
          socket.destroy()
          server.close(() => resolve())
        }
      })
      socket.on('error', reject)
    })
    server.listen(0, '127.0.0.1', () => {
      const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
      socket.on('error', (error: NodeJS.ErrnoException) => {
        if (error.code !== 'ECONNRESET' && error.code !== 'EPIPE') reject(error)
      })
      let sent = 0
      const pump = (): void => {
        while (sent < bytes) {
          sent += block.length
          if (!socket.write(block)) {
            socket.once('drain', pump)
            return
          }
        }
      }
      socket.on('connect', pump)
    })
  })
  const seconds = Number(process.hrtime.bigint() - start) / 1e9
  return rateOf(bytes, seconds, process.cpuUsage(startCpu))
}
