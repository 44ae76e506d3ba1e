/** A Session stream to one meta node without the SDK: calls as they go over the wire, for what a good client never does. */

import { createNodeEnv } from '../../src/main/compose.ts'
import type { Env } from '../../src/ports/env.ts'
import type { Duplex } from '../../src/ports/net.ts'
import type { holdfast } from '../../src/wire/messages.ts'
import { metaMethods } from '../../src/wire/methods.ts'

type Request = holdfast.v1.MetaRequest.$Properties
type Reply = holdfast.v1.MetaReply

export class RawSession {
  readonly #env: Env & { readonly net: { close(): Promise<void> } }
  readonly #stream: Duplex<Request, Reply>
  readonly #waiting = new Map<number, (reply: Reply | Error) => void>()
  #calls = 0

  private constructor(env: Awaited<ReturnType<typeof createNodeEnv>>, address: string) {
    this.#env = env
    this.#stream = env.net.open(address, metaMethods.session)
    this.#stream.onMessage((reply) => {
      this.#waiting.get(reply.call)?.(reply)
      this.#waiting.delete(reply.call)
    })
    this.#stream.onEnd(() => this.#stream.end())
    this.#stream.onClose((error) => {
      for (const settle of this.#waiting.values()) settle(error ?? new Error('the stream ended'))
      this.#waiting.clear()
    })
  }

  static async open(address: string): Promise<RawSession> {
    return new RawSession(await createNodeEnv({ level: 'error' }), address)
  }

  /** Sends one call; resolves to its reply, refusals included. Rejects when the stream breaks. */
  async call(request: Omit<Request, 'call'>): Promise<Reply> {
    const call = ++this.#calls
    return await new Promise((done, reject) => {
      this.#waiting.set(call, (reply) => (reply instanceof Error ? reject(reply) : done(reply)))
      this.#stream.send({ ...request, call } as Request)
    })
  }

  /** Sends all, at most `width` at once; replies in order. */
  async callAll(requests: readonly Omit<Request, 'call'>[], width = 512): Promise<Reply[]> {
    const replies: Reply[] = []
    let next = 0
    const lane = async (): Promise<void> => {
      while (next < requests.length) {
        const at = next++
        replies[at] = await this.call(requests[at] as Omit<Request, 'call'>)
      }
    }
    await Promise.all(Array.from({ length: width }, lane))
    return replies
  }

  async close(): Promise<void> {
    this.#stream.end()
    await this.#env.net.close()
  }
}
