/**
 * Server reflection and `grpc.health.v1`, so that grpcurl and load balancers need nothing of ours.
 *
 * The .proto files are read from the package at run time, and only when the first stranger asks: it costs tens of
 * milliseconds and megabytes that a node which nobody reflects on need not pay.
 */

import { readdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { handleBidiStreamingCall, Server, ServerDuplexStream, UntypedServiceImplementation } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { ReflectionService } from '@grpc/reflection'
import { HealthImplementation, protoPath as healthProtoPath } from 'grpc-health-check'
import { StoreError } from '../model/errors.ts'

const healthService = 'grpc.health.v1.Health'
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

function loadReflection(services: readonly string[]): Map<string, ReflectionMethod> {
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
  new ReflectionService({ ...definition, ...health }, { services: [...services, healthService] }).addToServer({
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

/** Serves reflection (v1 and v1alpha); it lists `services()`, asked once at the first call, and `grpc.health.v1`. */
export function addReflection(server: Server, services: () => readonly string[]): void {
  let methods: Map<string, ReflectionMethod> | undefined
  function loaded(path: string): ReflectionMethod {
    methods ??= loadReflection(services())
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

/** What health answers from. */
export interface HealthSource {
  /** Full names of the services this server has. */
  readonly services: () => readonly string[]
  /** True while the server should get traffic. */
  readonly serving: () => boolean
}

/**
 * Serves `grpc.health.v1` for the whole server ("") and for each of its services; others are NOT_FOUND. The source is
 * asked at every call; `refresh` tells those that watch of a change in between.
 */
export function addHealth(server: Server, source: HealthSource): { refresh(): void } {
  const health = new HealthImplementation()
  const shown = new Map<string, boolean>()
  function refresh(): void {
    const serving = source.serving()
    for (const name of ['', ...source.services()]) {
      if (shown.get(name) === serving) continue
      shown.set(name, serving)
      health.setStatus(name, serving ? 'SERVING' : 'NOT_SERVING')
    }
  }
  health.addToServer({
    addService: (service, implementation) => {
      const fresh = Object.entries(implementation).map(([name, handle]) => [
        name,
        (...call: unknown[]) => {
          refresh()
          ;(handle as (...call: unknown[]) => void)(...call)
        },
      ])
      server.addService(service, Object.fromEntries(fresh) as UntypedServiceImplementation)
    },
  })
  return { refresh }
}
