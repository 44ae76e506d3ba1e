/**
 * Which process made a TCP connection on this machine's loopback: what lets one proxy in front of a node treat every peer
 * that connects to it differently, although all of them were told the same address. Linux: read from /proc.
 */

import { readdirSync, readFileSync, readlinkSync } from 'node:fs'

/** True where connections can be told apart. */
export const ownersAreKnown: boolean = process.platform === 'linux'

function hexPort(port: number): string {
  return `:${port.toString(16).toUpperCase().padStart(4, '0')}`
}

/** Inode of the socket that connected from `fromPort` to `toPort` over IPv4 loopback. */
function inodeOf(fromPort: number, toPort: number): string | undefined {
  const [from, to] = [hexPort(fromPort), hexPort(toPort)]
  for (const line of readFileSync('/proc/net/tcp', 'utf8').split('\n')) {
    const fields = line.trim().split(/\s+/)
    if (fields[1]?.endsWith(from) === true && fields[2]?.endsWith(to) === true) return fields[9]
  }
  return undefined
}

function holds(pid: number, inode: string): boolean {
  const directory = `/proc/${pid}/fd`
  const wanted = `socket:[${inode}]`
  try {
    return readdirSync(directory).some((fd) => {
      try {
        return readlinkSync(`${directory}/${fd}`) === wanted
      } catch {
        return false // closed while we looked
      }
    })
  } catch {
    return false // the process is gone
  }
}

/** The name in `pids` of the process that holds the connecting end; undefined: none of them. */
export function connectionOwner(
  fromPort: number,
  toPort: number,
  pids: ReadonlyMap<string, number>,
): string | undefined {
  const inode = inodeOf(fromPort, toPort)
  if (inode === undefined) return undefined
  for (const [name, pid] of pids) if (holds(pid, inode)) return name
  return undefined
}
