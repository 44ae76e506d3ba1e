/**
 * Histories of registers, and what a register that behaves does with one operation: the model that the checkers share.
 *
 * A history is a plain list, whoever made it: the simulator in virtual time or real processes by a wall clock. One key is
 * one register. A version names one write of its key and rises from write to write; whether it is a log index or a counter
 * does not matter here.
 * Invariant: `stepRegister` is deterministic: a state and an operation give one next state, or none when the register
 * could not have answered that.
 */

/** What a client asked of one key. */
export type RegisterOp =
  | { readonly kind: 'get' }
  | { readonly kind: 'put'; readonly value: string }
  /** Writes only if the key has this version (0: is absent), or this value. */
  | { readonly kind: 'cas'; readonly onVersion?: number; readonly onValue?: string; readonly value: string }
  /** Removes the key, if it has this version; answers ok false when it was absent or had another one. */
  | { readonly kind: 'delete'; readonly onVersion?: number }

/** What it was told. Of a put: the version it made; of a get: what is there (value undefined: nothing). */
export interface RegisterResult {
  /** False only for a conditional write whose condition did not hold, or a delete of nothing. */
  readonly ok: boolean
  readonly value?: string | undefined
  /** Undefined when the answer did not say. */
  readonly version?: number | undefined
}

export interface Operation {
  readonly client: string
  readonly key: string
  readonly op: RegisterOp
  readonly call: number
  /** Undefined: the outcome is unknown; the operation may take effect at any later time, or never. */
  readonly return: number | undefined
  readonly result: RegisterResult | undefined
}

/**
 * A register. `version` is undefined while the newest write is one whose answer was never seen; then it is above `floor`,
 * the highest version that is known to have been before it.
 */
export interface RegisterState {
  readonly value: string | undefined
  readonly version: number | undefined
  readonly floor: number
}

export const emptyRegister: RegisterState = { value: undefined, version: 0, floor: 0 }

/** A name for the state: equal states have equal names. */
export function registerName(state: RegisterState): string {
  return `${state.value === undefined ? '-' : `=${state.value}`}|${state.version ?? '?'}|${state.floor}`
}

function written(
  state: RegisterState,
  value: string | undefined,
  version: number | undefined,
): RegisterState | undefined {
  if (version !== undefined && version <= state.floor) return undefined
  return { value, version, floor: version ?? state.floor }
}

function read(state: RegisterState, result: RegisterResult): RegisterState | undefined {
  if (result.value !== state.value) return undefined
  const { version } = result
  if (version === undefined || version === state.version) return state
  // Nothing is there: some stores answer version 0, others the version of what removed it.
  if (state.value === undefined && version === 0) return state
  if (state.version !== undefined || version <= state.floor) return undefined
  return { value: state.value, version, floor: version }
}

/** What a conditional write names. */
interface Condition {
  readonly onVersion?: number
  readonly onValue?: string
}

/** The state in which the condition holds, undefined when it cannot. */
function conditionHolds(state: RegisterState, op: Condition): RegisterState | undefined {
  if (op.onValue !== undefined && op.onValue !== state.value) return undefined
  const { onVersion } = op
  if (onVersion === undefined) return state
  if (state.value === undefined) return onVersion === 0 ? state : undefined
  if (onVersion === 0) return undefined
  if (state.version !== undefined) return state.version === onVersion ? state : undefined
  return onVersion > state.floor ? { ...state, version: onVersion, floor: onVersion } : undefined
}

/** True when the condition may not hold. */
function conditionMayFail(state: RegisterState, op: Condition): boolean {
  const held = conditionHolds(state, op)
  return held === undefined || (state.version === undefined && op.onVersion !== undefined)
}

/**
 * The state after the operation was carried out in `state` with that result (undefined: any result). Undefined when the
 * register could not have answered that.
 */
export function stepRegister(
  state: RegisterState,
  op: RegisterOp,
  result: RegisterResult | undefined,
): RegisterState | undefined {
  switch (op.kind) {
    case 'get':
      return result === undefined ? state : read(state, result)
    case 'put':
      return result?.ok === false ? undefined : written(state, op.value, result?.version)
    case 'cas': {
      if (result?.ok === false) return conditionMayFail(state, op) ? state : undefined
      const held = conditionHolds(state, op)
      // An unknown outcome whose condition does not hold has done nothing.
      if (held === undefined) return result === undefined ? state : undefined
      return written(held, op.value, result?.version)
    }
    case 'delete': {
      if (result?.ok === false) return state.value === undefined || conditionMayFail(state, op) ? state : undefined
      const held = state.value === undefined ? undefined : conditionHolds(state, op)
      if (held === undefined) return result === undefined ? state : undefined
      return written(held, undefined, result?.version)
    }
  }
}

/** One line for people. */
export function describeOperation(operation: Operation): string {
  const { client, key, op, result } = operation
  const what =
    op.kind === 'get'
      ? 'get'
      : op.kind === 'delete'
        ? `delete${op.onVersion === undefined ? '' : ` @${op.onVersion}`}`
        : op.kind === 'put'
          ? `put ${op.value}`
          : `cas ${op.onVersion === undefined ? `=${op.onValue}` : `@${op.onVersion}`} ${op.value}`
  const told =
    result === undefined
      ? 'unknown'
      : `${result.ok ? 'ok' : 'refused'}${'value' in result ? ` ${result.value ?? 'nothing'}` : ''}${result.version === undefined ? '' : ` @${result.version}`}`
  return `[${operation.call}..${operation.return ?? ''}] ${client} ${key}: ${what} -> ${told}`
}
