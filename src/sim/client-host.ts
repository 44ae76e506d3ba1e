/** A client process of a simulated run: works from its start to its end, and can be killed in between. */

import type { Env } from '../ports/env.ts'
import { SimProcess } from './clock.ts'
import { killProcess, type SimContext, type Victim } from './context.ts'
import type { SimWorker } from './workload.ts'

/** Makes the worker of one life of the process. */
export type WorkerFactory = (env: Env, host: SimProcess) => SimWorker

export class ClientHost implements Victim {
  readonly host: SimProcess
  readonly kind = 'client'
  readonly devices = []
  readonly gone = false
  readonly #context: SimContext
  readonly #make: WorkerFactory
  #worker: SimWorker | undefined
  #doneBefore = 0
  #stopping = false
  /** Its last worker has come to its end. */
  over = false

  constructor(context: SimContext, id: string, make: WorkerFactory) {
    this.#context = context
    this.#make = make
    this.host = new SimProcess(id)
  }

  get done(): number {
    return this.#doneBefore + (this.#worker?.done ?? 0)
  }

  start(): void {
    const { host } = this
    host.alive = true
    const worker = this.#make(this.#context.env(host), host)
    this.#worker = worker
    worker.stopped = this.#stopping
    const { incarnation } = host
    worker.run().then(
      () => {
        if (host.incarnation === incarnation) this.over = true
      },
      (error: unknown) => this.#context.fail(error),
    )
  }

  /** Its operations that wait for an answer never get one: their outcome stays unknown. */
  crash(): void {
    this.#doneBefore = this.done
    this.#worker = undefined
    killProcess(this.host, this.#context.net)
  }

  /** Comes to its end after the operation it is at. */
  stop(): void {
    this.#stopping = true
    if (this.#worker !== undefined) this.#worker.stopped = true
  }
}
