/**
 * Free ports of this machine. A port counts as free only if port and port + 1000 are: every node serves HTTP there.
 */

import { createServer } from 'node:net'
import { StoreError } from '../model/errors.ts'
import { adminPortOffset } from './compose.ts'

function canListen(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(true)))
  })
}

/** True when a node can serve on `port`. */
export async function isPortFree(host: string, port: number): Promise<boolean> {
  return (await canListen(host, port)) && (await canListen(host, port + adminPortOffset))
}

/** The first `count` free ports from `first` on, none of them in `taken`. Throws PORT_IN_USE when there are not so many. */
export async function findPorts(
  host: string,
  first: number,
  count: number,
  taken: ReadonlySet<number> = new Set(),
): Promise<number[]> {
  const found: number[] = []
  const used = new Set<number>()
  for (const port of taken) used.add(port).add(port + adminPortOffset)
  for (let port = first; found.length < count; port++) {
    if (port + adminPortOffset > 65_535) {
      throw new StoreError('PORT_IN_USE', `there are no ${count} free ports from ${first} on: give another --port`)
    }
    if (used.has(port) || used.has(port + adminPortOffset) || !(await isPortFree(host, port))) continue
    found.push(port)
    used.add(port).add(port + adminPortOffset)
  }
  return found
}
