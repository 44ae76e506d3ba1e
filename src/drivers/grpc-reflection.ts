/**
 * Server reflection and `grpc.health.v1`, so that grpcurl and load balancers need nothing of ours.
 *
 * The .proto files are read from the package at run time, and only when the first stranger asks: it costs tens of
 * milliseconds and megabytes that a node which nobody reflects on need not pay.
 */

import { readdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { handleBidiStreamingCall, Server, ServerDuplexStream } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { ReflectionService } from '@grpc/reflection'
import { HealthImplementation, protoPath as healthProtoPath } from 'grpc-health-check'
import { StoreError } from '../model/errors.ts'

const protoFolder = join('holdfast', 'v1')

/** The package's `proto` directory: the nearest one above this file, wherever it was compiled to. */
export function protoRoot(): string {
  let directory = dirname(fileURLToPath(import.meta.url))
  for (;;) {
    const candidate = join(directory, 'proto')
    if (statSync(join(candidate, protoFolder), { throwIfNoEntry: false })?.isDirectory() === true) return candidate
    const parent = dirname(directory)
    if (parent === directory)
      throw new StoreError('IO', 'find proto/holdfast/v1: the package is incomplete; reinstall it')
    directory = parent
  }
}

const reflectionPaths = [
  '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
  '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo',
]

interface ReflectionMethod {
  readonly handle: handleBidiStreamingCall<unknown, unknown>
  readonly serialize: (message: unknown) => Buffer
  readonly deserialize: (bytes: Buffer) => unknown
}

function loadReflection(): Map<string, ReflectionMethod> {
  const root = protoRoot()
  const files = readdirSync(join(root, protoFolder))
    .filter((name) => name.endsWith('.proto'))
    .sort()
  const definition = loadSync(
    files.map((name) => join(protoFolder, name)),
    { includeDirs: [root], longs: String, keepCase: true },
  )
  const methods = new Map<string, ReflectionMethod>()
  const health = loadSync(healthProtoPath, { longs: String, keepCase: true })
  new ReflectionService({ ...definition, ...health }).addToServer({
    addService: (service, implementation) => {
      for (const [name, method] of Object.entries(service)) {
        methods.set(method.path, {
          handle: implementation[name] as handleBidiStreamingCall<unknown, unknown>,
          serialize: method.responseSerialize,
          deserialize: method.requestDeserialize,
        })
      }
    },
  })
  return methods
}

/** Serves reflection of every service in proto/holdfast/v1 and of `grpc.health.v1` (v1 and v1alpha). */
export function addReflection(server: Server): void {
  let methods: Map<string, ReflectionMethod> | undefined
  function loaded(path: string): ReflectionMethod {
    methods ??= loadReflection()
    const method = methods.get(path)
    if (method === undefined) throw new StoreError('INTERNAL', `reflection has no method ${path}`)
    return method
  }
  for (const path of reflectionPaths) {
    server.register(
      path,
      (call: ServerDuplexStream<unknown, unknown>) => loaded(path).handle(call),
      (message: unknown) => loaded(path).serialize(message),
      (bytes: Buffer) => loaded(path).deserialize(bytes),
      'bidi',
    )
  }
}

/** Serves `grpc.health.v1`; the answer for the whole server ("") is NOT_SERVING until `setServing(true)`. */
export function addHealth(server: Server): { setServing(serving: boolean): void } {
  const health = new HealthImplementation({ '': 'NOT_SERVING' })
  health.addToServer(server)
  return { setServing: (serving) => health.setStatus('', serving ? 'SERVING' : 'NOT_SERVING') }
}
