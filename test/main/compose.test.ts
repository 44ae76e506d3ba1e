/**
 * The pair of ports of a node, its HTTP page, health and reflection.
 */

import { createServer, connect, type AddressInfo, type Server } from 'node:net'
import { Client, credentials } from '@grpc/grpc-js'
import { expect } from 'chai'
import { protoRoot } from '../../src/drivers/grpc-reflection.ts'
import { createNodeEnv, listenNode, type NodeEnv, type NodePorts } from '../../src/main/compose.ts'
import { isStoreError } from '../../src/model/errors.ts'

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
      () => undefined,
      () => ready,
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
    expect((await get('/readyz')).status).equal(503)
    ready = true
    expect((await get('/readyz')).status).equal(200)
    expect((await get('/metrics')).text).include('holdfast_test_total 1')
    expect((await get('/other')).status).equal(404)
    expect((await fetch(`http://127.0.0.1:${ports.admin.port}/livez`, { method: 'POST', body: 'x' })).status).equal(405)
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
          () => true,
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
          () => true,
        ),
      ),
    ).equal('USAGE')
  })

  it('answer grpc.health.v1 and reflection', async () => {
    const client = new Client(ports.address, credentials.createInsecure())
    const health = await new Promise<Buffer>((resolve, reject) => {
      client.makeUnaryRequest(
        '/grpc.health.v1.Health/Check',
        (bytes: Buffer) => bytes,
        (bytes: Buffer) => bytes,
        Buffer.alloc(0),
        (error, reply) => (reply === undefined ? reject(error) : resolve(reply)),
      )
    })
    // status = 1 (SERVING) as field 1.
    expect([...health]).deep.equal([8, 1])
    const names = await new Promise<string>((resolve, reject) => {
      const call = client.makeBidiStreamRequest(
        '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
        (bytes: Buffer) => bytes,
        (bytes: Buffer) => bytes,
      )
      call.on('data', (bytes: Buffer) => {
        resolve(bytes.toString('latin1'))
        call.end()
      })
      call.on('error', reject)
      // list_services = "" as field 7.
      call.write(Buffer.from([0x3a, 0]))
    })
    for (const service of ['Meta', 'Storage', 'NodeControl', 'Raft']) expect(names).include(`holdfast.v1.${service}`)
    client.close()
  })

  it('find the proto files from wherever the program was compiled to', () => {
    expect(protoRoot().endsWith('/proto')).equal(true)
  })
})
