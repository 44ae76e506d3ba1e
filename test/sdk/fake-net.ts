/** A network and a clock in memory: messages are encoded and decoded as on the wire, and time runs as fast as wanted. */

import { StoreError } from '../../src/model/errors.ts'
import type { Clock } from '../../src/ports/clock.ts'
import type { Duplex, Method, NetClient } from '../../src/ports/net.ts'

/** A clock that runs `speed` times as fast as the machine's. */
export function fastClock(speed: number): Clock {
  return {
    monotonicMs: () => performance.now() * speed,
    wallMs: () => Date.now(),
    after: (delayMs, handler) => {
      const timer = setTimeout(handler, delayMs / speed)
      return { cancel: () => clearTimeout(timer) }
    },
  }
}

/** The server's end of a fake stream. */
export interface Peer {
  onBytes(bytes: Uint8Array): void
  onGone(): void
}

export interface PeerControl {
  reply(bytes: Uint8Array): void
  break(error: StoreError): void
}

/** Opens a peer for a stream; undefined: nobody listens there. */
export type Listener = (path: string, control: PeerControl) => Peer | undefined

export class FakeNet implements NetClient {
  readonly listeners = new Map<string, Listener>()
  opened = 0
  closed = false

  async call<QI, RI, QO, RO>(address: string, method: Method<QI, RI, QO, RO>): Promise<RI> {
    throw new StoreError('UNAVAILABLE', `${method.path} at ${address} is not part of the fake`)
  }

  open<QI, RI, QO, RO>(address: string, method: Method<QI, RI, QO, RO>): Duplex<QO, RI> {
    this.opened++
    let onMessage: (message: RI) => void = () => undefined
    let onClose: (error: StoreError | undefined) => void = () => undefined
    let over = false
    const close = (error: StoreError | undefined): void => {
      if (over) return
      over = true
      setImmediate(() => onClose(error))
    }
    const peer = this.listeners.get(address)?.(method.path, {
      reply: (bytes) => {
        const copy = bytes.slice()
        setImmediate(() => {
          if (!over) onMessage(method.decodeReply(copy))
        })
      },
      break: (error) => setImmediate(() => close(error)),
    })
    if (peer === undefined) close(new StoreError('UNAVAILABLE', `connect ${address}: refused`))
    return {
      send: (message) => {
        if (over) return true
        const bytes = method.encodeRequest(message).slice()
        setImmediate(() => {
          if (!over) peer?.onBytes(bytes)
        })
        return true
      },
      end: () => undefined,
      destroy: (error) => {
        if (!over) peer?.onGone()
        close(error)
      },
      pause: () => undefined,
      resume: () => undefined,
      traffic: () => ({ receivedBytes: 0, queuedBytes: 0 }),
      onMessage: (handler) => {
        onMessage = handler
      },
      onDrain: () => undefined,
      onEnd: () => undefined,
      onClose: (handler) => {
        onClose = handler
      },
    }
  }

  async close(): Promise<void> {
    this.closed = true
  }
}
