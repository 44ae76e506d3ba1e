/**
 * Checks of what callers hand in, before anything is sent.
 *
 * Programs in JavaScript have no compiler that holds them to the types, so every shape is looked at here: a call that is
 * wrong in itself is INVALID_ARGUMENT with a definite outcome, never a failure halfway through.
 */

import { utf8 } from '../base/bytes.ts'
import { StoreError } from '../model/errors.ts'
import { limits } from '../model/limits.ts'
import { checkBucketName, checkKey } from '../model/names.ts'
import { writeConcerns } from '../model/words.ts'
import { isBody } from './body.ts'
import { conditionOf } from './entries.ts'
import type { CommitOperation, PutOptions } from './types.ts'

const copiesDefault = 3
const operationKinds = ['put', 'delete', 'copy'] as const

function refuse(message: string): never {
  throw new StoreError('INVALID_ARGUMENT', message)
}

function kindOf(value: unknown): string {
  if (value === null) return 'null'
  return Array.isArray(value) ? 'a list' : value === undefined ? 'nothing' : `a value of type ${typeof value}`
}

/** Throws INVALID_ARGUMENT unless `value` is a string. */
export function checkText(value: unknown, what: string): asserts value is string {
  if (typeof value !== 'string') refuse(`${what} is ${kindOf(value)}: give a string`)
}

function checkRecord(value: unknown, what: string): asserts value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    refuse(`${what} is ${kindOf(value)}: give an object`)
  }
}

/** Throws INVALID_ARGUMENT unless `bucket` can name a bucket. */
export function checkBucket(bucket: unknown): asserts bucket is string {
  checkText(bucket, 'the bucket')
  checkBucketName(bucket)
}

/** Throws INVALID_ARGUMENT unless both can name an object. */
export function checkPlace(bucket: unknown, key: unknown): void {
  checkBucket(bucket)
  checkText(key, 'the object name')
  checkKey(key)
}

/** Throws INVALID_ARGUMENT unless `address` is host:port. */
export function checkAddress(address: unknown, what = 'the address'): asserts address is string {
  checkText(address, what)
  const port = Number(/^.+:(\d{1,5})$/.exec(address)?.[1] ?? Number.NaN)
  if (!(port >= 1 && port <= 65_535)) refuse(`${what} ${JSON.stringify(address.slice(0, 80))} is not host:port`)
}

/** Throws INVALID_ARGUMENT unless `value` is a whole number that a bound can be. */
export function checkBound(value: unknown, what: string): asserts value is number {
  if (!Number.isSafeInteger(value) || (value as number) < 0) refuse(`${what} ${String(value)} is not a whole number`)
}

/** Checks of what both objects and chunks are stored with. Throws INVALID_ARGUMENT. */
export function checkedWrite(options: Pick<PutOptions, 'replicas' | 'write'>): {
  copies: number
  concern: (typeof writeConcerns)[number]
} {
  const copies = options.replicas ?? copiesDefault
  if (!Number.isInteger(copies) || copies < 1 || copies > limits.replicasMax) {
    refuse(`replicas ${copies} is out of range: use 1 to ${limits.replicasMax}`)
  }
  const concern = options.write ?? 'quorum'
  if (!writeConcerns.includes(concern)) {
    refuse(`write ${JSON.stringify(concern)} is unknown: use ${writeConcerns.join(', ')}`)
  }
  return { copies, concern }
}

function checkMetadata(metadata: unknown): void {
  checkRecord(metadata, 'metadata')
  let bytes = 0
  for (const [name, value] of Object.entries(metadata)) {
    checkText(value, `metadata ${JSON.stringify(name)}`)
    bytes += utf8(name).length + utf8(value).length
  }
  if (bytes > limits.userMetadataBytesMax) {
    refuse(`metadata has ${bytes} bytes: use at most ${limits.userMetadataBytesMax}`)
  }
}

function checkPut(put: Extract<CommitOperation, { put: unknown }>['put']): void {
  checkPlace(put.bucket, put.key)
  checkedWrite(put)
  conditionOf(put)
  checkMetadata(put.metadata ?? {})
  if (put.contentType !== undefined) checkText(put.contentType, 'the content type')
  if (put.size !== undefined && !(Number.isSafeInteger(put.size) && put.size >= 0)) {
    refuse(`size ${String(put.size)} is not a number of bytes`)
  }
  if (put.onProgress !== undefined && typeof put.onProgress !== 'function') refuse('onProgress is not a function')
  if (!isBody(put.body)) refuse(`the body of ${put.key} is ${kindOf(put.body)}: give bytes, text or a stream`)
}

function checkOperation(operation: CommitOperation, at: number): void {
  checkRecord(operation, `operation ${at}`)
  const kinds = operationKinds.filter((kind) => kind in operation)
  const [kind] = kinds
  if (kind === undefined || kinds.length > 1) {
    refuse(`operation ${at} has ${kinds.join(' and ') || 'no operation'}: give one of ${operationKinds.join(', ')}`)
  }
  checkRecord((operation as Record<string, unknown>)[kind], `${kind} of operation ${at}`)
  if ('put' in operation) checkPut(operation.put)
  else if ('delete' in operation) {
    checkPlace(operation.delete.bucket, operation.delete.key)
    conditionOf(operation.delete)
  } else {
    checkPlace(operation.copy.bucket, operation.copy.key)
    checkPlace(operation.copy.fromBucket, operation.copy.fromKey)
    conditionOf(operation.copy)
  }
}

/** Throws INVALID_ARGUMENT unless every operation can be sent as it is. */
export function checkOperations(operations: readonly CommitOperation[]): void {
  if (!Array.isArray(operations)) refuse(`the operations of a commit are ${kindOf(operations)}: give a list`)
  if (operations.length < 1 || operations.length > limits.commitObjectsMax) {
    refuse(`a commit holds 1 to ${limits.commitObjectsMax} operations, not ${operations.length}`)
  }
  operations.forEach(checkOperation)
}
