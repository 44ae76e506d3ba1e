/**
 * Compact binary codecs from small combinators: the one way our own records, commands and disk headers become bytes.
 *
 * `struct({ id: u64, name: text, replicas: list(replica) })` gives a value with `encode`, `decode` and a TypeScript
 * type (`TypeOf<typeof x>`). Integers are LEB128 varints below 2^53; text and bytes are length-prefixed.
 *
 * Why not protobuf here: cores may not import the wire layer, and replicated state must encode to the same bytes on
 * every replica (protobuf does not promise that). Evolution is by an explicit version field or a new union tag.
 *
 * Invariants: encode(decode(b)) is b for every b that decode accepts up to varint padding; decode is total: bytes
 * that do not fit give `SchemaError`, never a hang or an allocation larger than the input.
 * Ownership: decoded `bytes` are views on the input. Copy them before keeping them longer than the input.
 */

import { allocateBytes, equalBytes, fromUtf8, putHex, putUtf8, toHex } from './bytes.ts'

/** Bytes that do not fit the schema. Callers turn it into CORRUPT or INVALID_ARGUMENT, whichever it means there. */
export class SchemaError extends Error {
  override readonly name = 'SchemaError'
}

function varintBytes(value: number): number {
  let bytes = 1
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes++
  return bytes
}

/** Appends to a growing buffer. */
export class ByteWriter {
  #buffer: Uint8Array
  #length = 0

  constructor(capacity = 256) {
    this.#buffer = new Uint8Array(capacity)
  }

  get length(): number {
    return this.#length
  }

  /** Forgets what was written after the first `length` bytes. */
  truncate(length: number): void {
    this.#length = length
  }

  get capacity(): number {
    return this.#buffer.length
  }

  #reserve(extra: number): void {
    const needed = this.#length + extra
    if (needed <= this.#buffer.length) return
    const grown = new Uint8Array(Math.max(needed, this.#buffer.length * 2))
    grown.set(this.#buffer.subarray(0, this.#length))
    this.#buffer = grown
  }

  byte(value: number): void {
    this.#reserve(1)
    this.#buffer[this.#length++] = value
  }

  varint(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) throw new SchemaError(`not an unsigned safe integer: ${value}`)
    this.#reserve(8)
    let rest = value
    while (rest > 0x7fff_ffff) {
      this.#buffer[this.#length++] = (rest % 0x80) | 0x80
      rest = Math.floor(rest / 0x80)
    }
    while (rest >= 0x80) {
      this.#buffer[this.#length++] = (rest & 0x7f) | 0x80
      rest >>>= 7
    }
    this.#buffer[this.#length++] = rest
  }

  raw(bytes: Uint8Array): void {
    this.#reserve(bytes.length)
    this.#buffer.set(bytes, this.#length)
    this.#length += bytes.length
  }

  /** The UTF-8 bytes of `value` after their count. */
  text(value: string): void {
    const units = value.length
    this.#reserve(8 + units * 3)
    // The count of bytes is guessed to be that of the units, as it is for ASCII, and put right where it is not.
    const guess = varintBytes(units)
    const start = this.#length + guess
    const written = putUtf8(this.#buffer, start, value)
    const needed = varintBytes(written)
    if (needed !== guess) this.#buffer.copyWithin(this.#length + needed, start, start + written)
    this.varint(written)
    this.#length += written
  }

  /** The bytes of `count * 2` hex digits; false when `value` is something else. */
  hex(value: string, count: number): boolean {
    this.#reserve(count)
    if (value.length !== count * 2 || !putHex(this.#buffer, this.#length, value)) return false
    this.#length += count
    return true
  }

  /** The bytes written so far, from `start` on; a view that the next write may invalidate. */
  view(start = 0): Uint8Array {
    return this.#buffer.subarray(start, this.#length)
  }

  finish(): Uint8Array {
    const out = allocateBytes(this.#length)
    out.set(this.view())
    return out
  }
}

/** Reads from bytes, checking every length. */
export class ByteReader {
  readonly #bytes: Uint8Array
  #at: number

  constructor(bytes: Uint8Array, at = 0) {
    this.#bytes = bytes
    this.#at = at
  }

  get position(): number {
    return this.#at
  }

  get remaining(): number {
    return this.#bytes.length - this.#at
  }

  /** The next byte, which stays to be read. */
  peek(): number {
    if (this.#at >= this.#bytes.length) throw new SchemaError('bytes end inside a value')
    return this.#bytes[this.#at] as number
  }

  byte(): number {
    if (this.#at >= this.#bytes.length) throw new SchemaError('bytes end inside a value')
    return this.#bytes[this.#at++] as number
  }

  varint(): number {
    const first = this.byte()
    if (first < 0x80) return first
    let value = first & 0x7f
    let scale = 0x80
    for (let i = 1; i < 8; i++) {
      const byte = this.byte()
      value += (byte & 0x7f) * scale
      if (byte < 0x80) {
        if (!Number.isSafeInteger(value)) break
        return value
      }
      scale *= 0x80
    }
    throw new SchemaError('integer above 2^53')
  }

  raw(length: number): Uint8Array {
    if (length > this.remaining) throw new SchemaError('bytes end inside a value')
    const out = this.#bytes.subarray(this.#at, this.#at + length)
    this.#at += length
    return out
  }

  skip(length: number): void {
    if (length > this.remaining) throw new SchemaError('bytes end inside a value')
    this.#at += length
  }

  /** What was read since position `from`. */
  since(from: number): Uint8Array {
    return this.#bytes.subarray(from, this.#at)
  }

  text(): string {
    const value = fromUtf8(this.raw(this.varint()))
    if (value === undefined) throw new SchemaError('text is not UTF-8')
    return value
  }
}

export interface Schema<T> {
  write(writer: ByteWriter, value: T): void
  read(reader: ByteReader): T
}

export type TypeOf<S> = S extends Schema<infer T> ? T : never

/** One writer for all, because most values are small and short-lived; a value inside another's encoding gets its own. */
let shared: ByteWriter | undefined = new ByteWriter(16 * 1024)
const sharedBytesMax = 1024 * 1024

/** Bytes of one value. */
export function encode<T>(schema: Schema<T>, value: T): Uint8Array {
  const writer = shared ?? new ByteWriter()
  shared = undefined
  try {
    schema.write(writer, value)
    return writer.finish()
  } finally {
    writer.truncate(0)
    shared = writer.capacity <= sharedBytesMax ? writer : new ByteWriter(16 * 1024)
  }
}

/** The value of exactly these bytes; throws `SchemaError` on anything else, trailing bytes included. */
export function decode<T>(schema: Schema<T>, bytes: Uint8Array): T {
  const reader = new ByteReader(bytes)
  const value = schema.read(reader)
  if (reader.remaining !== 0) throw new SchemaError(`${reader.remaining} bytes too many`)
  return value
}

/**
 * A record that grew: `first` as it always was, then `later` when it says anything else than `fallback`. Values that do
 * not use the later fields keep their old bytes, which older programs read. Only for whole values, not within others.
 */
export function extended<First extends object, Later extends object>(
  first: Schema<First>,
  later: Schema<Later>,
  fallback: Later,
): Schema<First & Later> {
  const empty = encode(later, fallback)
  return {
    write: (writer, value) => {
      first.write(writer, value)
      const end = writer.length
      later.write(writer, value)
      if (equalBytes(writer.view(end), empty)) writer.truncate(end)
    },
    read: (reader) => ({ ...first.read(reader), ...(reader.remaining === 0 ? fallback : later.read(reader)) }),
  }
}

/** Unsigned integer below 2^53. */
export const uint: Schema<number> = {
  write: (writer, value) => writer.varint(value),
  read: (reader) => reader.varint(),
}

export const bool: Schema<boolean> = {
  write: (writer, value) => writer.byte(value ? 1 : 0),
  read: (reader) => {
    const byte = reader.byte()
    if (byte > 1) throw new SchemaError(`not a boolean: ${byte}`)
    return byte === 1
  },
}

export const text: Schema<string> = {
  write: (writer, value) => writer.text(value),
  read: (reader) => reader.text(),
}

/** `count` bytes on disk, twice as many hex digits in code. */
export function hex(count: number): Schema<string> {
  return {
    write: (writer, value) => {
      if (!writer.hex(value, count)) throw new SchemaError(`not ${count * 2} hex digits`)
    },
    read: (reader) => toHex(reader.raw(count)),
  }
}

/** Length-prefixed bytes; decoded as a view on the input. */
export const bytes: Schema<Uint8Array> = {
  write: (writer, value) => {
    writer.varint(value.length)
    writer.raw(value)
  },
  read: (reader) => reader.raw(reader.varint()),
}

/** Exactly `length` bytes. */
export function fixed(length: number): Schema<Uint8Array> {
  return {
    write: (writer, value) => {
      if (value.length !== length) throw new SchemaError(`want ${length} bytes, have ${value.length}`)
      writer.raw(value)
    },
    read: (reader) => reader.raw(length),
  }
}

export function list<T>(item: Schema<T>): Schema<readonly T[]> {
  return {
    write: (writer, values) => {
      writer.varint(values.length)
      for (const value of values) item.write(writer, value)
    },
    read: (reader) => {
      const count = reader.varint()
      const out: T[] = []
      for (let i = 0; i < count; i++) {
        if (reader.remaining === 0) throw new SchemaError('list ends early')
        out.push(item.read(reader))
      }
      return out
    },
  }
}

/** One of a closed list of names; the position in `names` is what is stored, so names are only ever appended. */
export function oneOf<const Names extends readonly string[]>(names: Names): Schema<Names[number]> {
  return {
    write: (writer, value) => {
      const index = names.indexOf(value)
      if (index < 0) throw new SchemaError(`unknown name: ${value}`)
      writer.varint(index)
    },
    read: (reader) => {
      const name = names[reader.varint()]
      if (name === undefined) throw new SchemaError('unknown name index')
      return name
    },
  }
}

/** Fields in the order they are named here. */
export function struct<Fields extends Record<string, Schema<unknown>>>(
  fields: Fields,
): Schema<{ [K in keyof Fields]: TypeOf<Fields[K]> }> {
  const schema = compile(fields) as Schema<{ [K in keyof Fields]: TypeOf<Fields[K]> }>
  fieldsOf.set(schema, fields)
  return schema
}

type AnyFields = Readonly<Record<string, Schema<unknown>>>

/** The fields of every struct, for the unions that they are in. */
const fieldsOf = new WeakMap<object, AnyFields>()

/**
 * The codec of a struct as code of its own, as if it were written by hand. A loop over the fields that all structs share
 * looks every field up by its name and calls every schema through the same place, which costs V8 several times what the
 * fields do. The names are ours, never from outside, and still checked; `kind` is a constant that comes first.
 */
function compile(fields: AnyFields, kind?: string): Schema<Record<string, unknown>> {
  const names = Object.keys(fields)
  for (const name of names) if (!/^[a-zA-Z]\w*$/.test(name)) throw new SchemaError(`not a name of a field: ${name}`)
  const constant = kind === undefined ? [] : [`kind: ${JSON.stringify(kind)}`]
  const reads = [...constant, ...names.map((name, i) => `${name}: s${i}.read(reader)`)]
  const writes = names.map((name, i) => `s${i}.write(writer, value.${name})`)
  const source = `return { write(writer, value) { ${writes.join('; ')} }, read(reader) { return { ${reads.join(', ')} } } }`
  // oxlint-disable-next-line typescript/no-implied-eval -- made of our own names, checked above, once for each struct
  const make = new Function(...names.map((_, i) => `s${i}`), source) as (
    ...schemas: readonly Schema<unknown>[]
  ) => Schema<Record<string, unknown>>
  return make(...Object.values(fields))
}

/** A tagged union on `kind`. `tags` gives each kind its stored number, which never changes meaning. */
export function union<Variants extends Record<string, { tag: number; body: Schema<unknown> }>>(
  variants: Variants,
): Schema<{ [K in keyof Variants]: { kind: K } & TypeOf<Variants[K]['body']> }[keyof Variants]> {
  type Value = { [K in keyof Variants]: { kind: K } & TypeOf<Variants[K]['body']> }[keyof Variants]
  const byTag = new Map<number, Schema<unknown>>()
  for (const [kind, { tag, body }] of Object.entries(variants)) {
    if (byTag.has(tag)) throw new SchemaError(`tag ${tag} used twice`)
    const fields = fieldsOf.get(body)
    byTag.set(tag, fields === undefined ? kindOf(kind, body) : compile(fields, kind))
  }
  return {
    write: (writer, value) => {
      const variant = variants[value.kind]
      if (variant === undefined) throw new SchemaError(`unknown kind: ${String(value.kind)}`)
      writer.varint(variant.tag)
      variant.body.write(writer, value)
    },
    read: (reader) => {
      const tag = reader.varint()
      const variant = byTag.get(tag)
      if (variant === undefined) throw new SchemaError(`unknown tag: ${tag}`)
      return variant.read(reader) as Value
    },
  }
}

/** A body that is no struct, as a variant of a union. */
function kindOf(kind: string, body: Schema<unknown>): Schema<unknown> {
  return { write: body.write, read: (reader) => ({ kind, ...(body.read(reader) as object) }) }
}
