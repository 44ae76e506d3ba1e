/**
 * Two systems under the same load: what the bench asks of a cluster and of a client of it, whoever it is.
 */

/** A member's process. */
export interface MemberProcess {
  readonly id: string
  readonly address: string
  readonly pid: number
}

/** Three members on this machine, each its own process, with fsync on. */
export interface Contender {
  readonly kind: 'holdfast' | 'etcd'
  /** What results call it. */
  readonly name: string
  readonly members: readonly MemberProcess[]
  /** The member that leads now. */
  leader(): Promise<MemberProcess>
  /** Kills a member outright, or stops its clock. */
  signal(id: string, signal: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): Promise<void>
  /** Starts a killed member again, with its data. */
  restart(id: string): Promise<void>
  stop(): Promise<void>
}

/** One connection of a client. Calls may be made at once; each resolves when it was acknowledged. */
export interface Connection {
  put(key: string): Promise<void>
  /** Linearizable. */
  read(key: string): Promise<void>
  close(): Promise<void>
}
