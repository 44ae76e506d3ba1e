/**
 * The generated messages, as values and as types.
 *
 * `v1.PutBegin` as a type is a decoded message (every field there, unset ones at their defaults);
 * `v1.PutBegin.$Properties` is what may be sent. Decoded `bytes` fields are views on the receive buffer: copy what is
 * kept, or a small field pins a whole frame.
 */

import './setup.ts'
import { holdfast } from './gen/holdfast.js'

export const v1: typeof holdfast.v1 = holdfast.v1
export type { holdfast } from './gen/holdfast.js'
