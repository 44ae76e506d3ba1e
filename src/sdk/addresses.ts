/**
 * Which of a node's advertised addresses to try first.
 *
 * A node may advertise several, for example its name in a container network and a port published on 127.0.0.1. Trying
 * them strictly in order costs a client outside that network one name look-up that fails, which can take seconds. The
 * addresses that the client itself was given show which network it is in, so those with one of its hosts come first.
 */

/** The host of `host:port`, brackets of an IPv6 address included. */
export function hostOf(address: string): string {
  const colon = address.lastIndexOf(':')
  return colon < 0 ? address : address.slice(0, colon)
}

/** `addresses` with those on a host of `hosts` first; the order is otherwise kept. */
export function preferHosts(addresses: readonly string[], hosts: ReadonlySet<string>): readonly string[] {
  const near = addresses.filter((address) => hosts.has(hostOf(address)))
  if (near.length === 0 || near.length === addresses.length) return addresses
  return [...near, ...addresses.filter((address) => !hosts.has(hostOf(address)))]
}
