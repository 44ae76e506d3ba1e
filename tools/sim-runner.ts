/**
 * Runs tasks of the simulator in worker threads, one after the other in each. A task that is not done in time, be it that
 * it spins and never comes back to its event loop, is stopped with its thread and has failed like any other.
 */

import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { type Ended, type Report, runTask, type Task } from './sim-tasks.ts'

/** A worker thread that survives good seeds and is replaced after bad ones. */
export class Runner {
  readonly #limitMs: number
  #worker: Worker | undefined

  constructor(limitMs: number) {
    this.#limitMs = limitMs
  }

  /** Runs the task; never rejects. */
  async run(task: Task, onTrace: (line: string) => void): Promise<Ended> {
    const worker = this.#worker ?? new Worker(fileURLToPath(import.meta.url))
    this.#worker = worker
    const done = new AbortController()
    const ended = await new Promise<Ended>((resolve) => {
      const limit = setTimeout(() => {
        const seconds = this.#limitMs / 1000
        resolve({ kind: 'failed', reason: `not done within ${seconds} s of real time: it hangs or spins` })
      }, this.#limitMs)
      const onMessage = (report: Report): void => {
        if (report.kind === 'trace') onTrace(report.line)
        else resolve(report)
      }
      const onError = (error: unknown): void => {
        const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
        resolve({ kind: 'failed', reason: `its thread ended (an unhandled rejection or exception): ${text}` })
      }
      worker.on('message', onMessage)
      worker.on('error', onError)
      done.signal.addEventListener('abort', () => {
        clearTimeout(limit)
        worker.off('message', onMessage)
        worker.off('error', onError)
      })
      worker.postMessage(task)
    })
    done.abort()
    if (ended.kind === 'failed') await this.close()
    return ended
  }

  async close(): Promise<void> {
    const worker = this.#worker
    this.#worker = undefined
    await worker?.terminate()
  }
}

/** The worker's side. An unhandled rejection or exception ends the thread and so fails the seed. */
function serveTasks(port: NonNullable<typeof parentPort>): void {
  const send = (report: Report): void => port.postMessage(report)
  port.on('message', (task: Task) => {
    runTask(task, (line) => send({ kind: 'trace', line }))
      .then(send)
      .catch((error: unknown) => {
        // A report that cannot be sent: thrown outside the promise, it ends the thread.
        process.nextTick(() => {
          throw error
        })
      })
  })
}

if (!isMainThread && parentPort !== null) serveTasks(parentPort)
