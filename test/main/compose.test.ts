/**
 * The pair of ports of a node, its HTTP page, health and reflection.
 */

import { createServer, connect, type AddressInfo, type Server } from 'node:net'
import { Client, credentials, status } from '@grpc/grpc-js'
import { expect } from 'chai'
import { protoRoot } from '../../src/drivers/grpc-reflection.ts'
import { createNodeEnv, listenNode, type NodeEnv, type NodePorts } from '../../src/main/compose.ts'
import { isStoreError } from '../../src/model/errors.ts'
import { bytesMethod } from '../drivers/grpc-kit.ts'

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'ok'
  } catch (error) {
    if (isStoreError(error)) return error.code
    throw error
  }
}

async function occupy(port: number): Promise<Server> {
  const server = createServer()
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', resolve)
  })
  return server
}

const identity = (bytes: Buffer): Buffer => bytes

/** The bytes of the answer, or the status code of the failure. */
async function checkHealth(address: string, service: string): Promise<number[] | number> {
  const client = new Client(address, credentials.createInsecure())
  const request = Buffer.from([10, service.length, ...Buffer.from(service)])
  try {
    return await new Promise((resolve, reject) => {
      client.makeUnaryRequest('/grpc.health.v1.Health/Check', identity, identity, request, (error, reply) => {
        if (reply !== undefined) resolve([...reply])
        else if (error !== null) resolve(error.code)
        else reject(new Error('neither reply nor error'))
      })
    })
  } finally {
    client.close()
  }
}

async function listServices(address: string, version: string): Promise<string> {
  const client = new Client(address, credentials.createInsecure())
  try {
    return await new Promise((resolve, reject) => {
      const path = `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`
      const call = client.makeBidiStreamRequest(path, identity, identity)
      call.on('data', (bytes: Buffer) => {
        resolve(bytes.toString('latin1'))
        call.end()
      })
      call.on('error', reject)
      // list_services = "" as field 7.
      call.write(Buffer.from([0x3a, 0]))
    })
  } finally {
    client.close()
  }
}

describe('ports of a node', () => {
  let env: NodeEnv
  let ports: NodePorts
  let ready: boolean

  beforeEach(async () => {
    env = await createNodeEnv({ level: 'error' })
    ready = false
    ports = await listenNode(
      '127.0.0.1:0',
      env,
      (server) => {
        for (const path of ['/holdfast.v1.Meta/Status', '/holdfast.v1.Meta/Place', '/holdfast.v1.Raft/Hello'])
          server.unary(bytesMethod(path, 'unary'), (request) => Promise.resolve(request))
      },
      () => (ready ? undefined : 'no contact with meta'),
    )
  })
  afterEach(async () => {
    await ports.server.close(0)
    await ports.admin.close()
    await env.net.close()
  })

  async function get(path: string): Promise<{ status: number; text: string }> {
    const response = await fetch(`http://127.0.0.1:${ports.admin.port}${path}`)
    return { status: response.status, text: await response.text() }
  }

  it('are 1000 apart when any will do', () => {
    expect(ports.admin.port).equal(ports.port + 1000)
    expect(ports.address).equal(`127.0.0.1:${ports.port}`)
  })

  it('say who is alive and ready, and give metrics', async () => {
    env.metrics.count('holdfast_test_total', 'T.')
    expect(await get('/livez')).deep.equal({ status: 200, text: 'ok\n' })
    expect(await get('/readyz')).deep.equal({ status: 503, text: 'not ready: no contact with meta\n' })
    ready = true
    expect((await get('/readyz')).status).equal(200)
    expect((await get('/metrics')).text).include('holdfast_test_total 1')
    expect((await get('/other')).status).equal(404)
    expect((await fetch(`http://127.0.0.1:${ports.admin.port}/livez`, { method: 'POST', body: 'x' })).status).equal(405)
  })

  it('give text that says what it is', async () => {
    const type = async (path: string): Promise<string | null> =>
      (await fetch(`http://127.0.0.1:${ports.admin.port}${path}`)).headers.get('content-type')
    expect(await type('/livez')).equal('text/plain; charset=utf-8')
    expect(await type('/readyz')).equal('text/plain; charset=utf-8')
    expect(await type('/metrics')).equal('text/plain; version=0.0.4; charset=utf-8')
  })

  it('measure the process', async () => {
    const { text } = await get('/metrics')
    expect(text).match(/# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes [1-9]/)
    expect(text).match(/# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total [0-9.]+\n/)
  })

  it('serve on after garbage on the HTTP port', async () => {
    await new Promise<void>((resolve) => {
      const socket = connect(ports.admin.port, '127.0.0.1', () => socket.end('\0\x01garbage\r\n\r\n\xff'))
      socket.on('error', () => undefined)
      socket.on('close', () => resolve())
      socket.resume()
    })
    expect((await get('/livez')).status).equal(200)
  })

  it('are both refused with PORT_IN_USE when one of them is taken', async () => {
    const listen = (port: number): Promise<string> =>
      codeOf(
        listenNode(
          `127.0.0.1:${port}`,
          env,
          () => undefined,
          () => undefined,
        ),
      )
    expect(await listen(ports.port)).equal('PORT_IN_USE')
    const holder = await occupy(0)
    const free = (holder.address() as AddressInfo).port
    expect(await listen(free - 1000)).equal('PORT_IN_USE')
    holder.close()
  })

  it('must leave room for the HTTP port', async () => {
    expect(
      await codeOf(
        listenNode(
          '127.0.0.1:65000',
          env,
          () => undefined,
          () => undefined,
        ),
      ),
    ).equal('USAGE')
  })

  it('answer grpc.health.v1 for the node and each service it has, following readiness', async () => {
    // HealthCheckResponse.status: field 1; 1 is SERVING, 2 NOT_SERVING.
    for (const service of ['', 'holdfast.v1.Meta', 'holdfast.v1.Raft']) {
      ready = false
      expect(await checkHealth(ports.address, service), service).deep.equal([8, 2])
      ready = true
      expect(await checkHealth(ports.address, service), service).deep.equal([8, 1])
    }
    expect(await checkHealth(ports.address, 'holdfast.v1.Storage')).equal(status.NOT_FOUND)
    ports.server.setServing(false)
    expect(await checkHealth(ports.address, '')).deep.equal([8, 2])
  })

  it('list by reflection the services that the node has, and no others', async () => {
    for (const version of ['v1', 'v1alpha']) {
      const names = await listServices(ports.address, version)
      for (const service of ['holdfast.v1.Meta', 'holdfast.v1.Raft', 'grpc.health.v1.Health'])
        expect(names).include(service)
      for (const service of ['holdfast.v1.Storage', 'holdfast.v1.NodeControl']) expect(names).not.include(service)
    }
  })

  it('find the proto files from wherever the program was compiled to', () => {
    expect(protoRoot().endsWith('/proto')).equal(true)
  })
})
