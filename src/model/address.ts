/**
 * Where a node is reached: `host:port`. The one rule for addresses, wherever they come from: what a configuration, a peer
 * or a caller names is checked before it is used, kept or replicated.
 */

/** 253 characters of host, a colon and a port, or brackets around an IPv6 address. */
const addressMax = 261

/** The port of `host:port`, 0 included; undefined when `text` is no such thing. */
export function portOf(text: string): number | undefined {
  const match = /^(?:\[[0-9a-fA-F:.]+\]|[\p{L}\p{M}\p{N}._-]+):(\d{1,5})$/u.exec(text)
  const port = Number(match?.[1])
  return text.length <= addressMax && port <= 65_535 ? port : undefined
}

/** True when somebody could be reached there. */
export function isAddress(text: string): boolean {
  return (portOf(text) ?? 0) > 0
}
