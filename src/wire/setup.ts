/**
 * protobufjs settings, applied once and before the generated code is loaded.
 *
 * Without a Long implementation, 64-bit fields decode to plain numbers. A number of 2^53 or more would be rounded in
 * silence, so every counter that comes from outside passes `safeCounter` (src/wire/checks.ts).
 */

import protobuf from 'protobufjs/minimal.js'

protobuf.util.Long = null as never
protobuf.configure()
