/**
 * Every remote procedure as a typed descriptor. The services' table in the .proto files and this one are compared by a
 * test, so that neither can drift.
 */

import protobuf from 'protobufjs/minimal.js'
import { StoreError } from '../model/errors.ts'
import type { Method } from '../ports/net.ts'
import { layChunkReply, layChunkRequest } from './data-frames.ts'
import { type holdfast, v1 } from './messages.ts'
import { layRaftFrame } from './raft-frames.ts'
import { layReply, layRequest, readReply, readRequest } from './session-frames.ts'

interface Codec<In, Out> {
  encode(message: Out, writer: protobuf.Writer): protobuf.Writer
  decode(bytes: Uint8Array): In
}

/** Decodes with a clear error: a message from outside that does not parse is INVALID_ARGUMENT, never a crash. */
function decodeWith<In>(codec: { decode(bytes: Uint8Array): In }, path: string, bytes: Uint8Array): In {
  try {
    return codec.decode(bytes)
  } catch (error) {
    throw new StoreError('INVALID_ARGUMENT', `decode a message of ${path}: the bytes are not such a message`, {
      cause: error,
    })
  }
}

/** One writer for all messages: a new one grows from nothing by doubling, which is most of what encoding costs. */
let shared: protobuf.Writer | undefined
const sharedBytesMax = 1024 * 1024

/** What `write` writes, in bytes of its own. */
function written(write: (writer: protobuf.Writer) => protobuf.Writer): Uint8Array {
  const writer = shared ?? protobuf.Writer.create()
  // Not back in its place when `write` throws: it is in an unknown state then.
  shared = undefined
  const bytes = write(writer).finish()
  if (writer.buf.length <= sharedBytesMax) shared = writer.reset()
  return bytes
}

function method<QIn, QOut, RIn, ROut>(
  path: string,
  kind: 'unary' | 'stream',
  request: Codec<QIn, QOut>,
  reply: Codec<RIn, ROut>,
): Method<QIn, RIn, QOut, ROut> {
  return {
    path,
    kind,
    encodeRequest: (value) => written((writer) => request.encode(value, writer)),
    decodeRequest: (bytes) => decodeWith(request, path, bytes),
    encodeReply: (value) => written((writer) => reply.encode(value, writer)),
    decodeReply: (bytes) => decodeWith(reply, path, bytes),
  }
}

const meta = '/holdfast.v1.Meta/'
const storage = '/holdfast.v1.Storage/'
const raft = '/holdfast.v1.Raft/'

export const metaMethods = {
  session: method(
    `${meta}Session`,
    'stream',
    {
      encode: (message: holdfast.v1.MetaRequest.$Properties, writer) =>
        layRequest(message, writer) ?? v1.MetaRequest.encode(message, writer),
      decode: (bytes) => readRequest(bytes) ?? v1.MetaRequest.decode(bytes),
    },
    {
      encode: (message: holdfast.v1.MetaReply.$Properties, writer) =>
        layReply(message, writer) ?? v1.MetaReply.encode(message, writer),
      decode: (bytes) => readReply(bytes) ?? v1.MetaReply.decode(bytes),
    },
  ),
  createBucket: method(`${meta}CreateBucket`, 'unary', v1.CreateBucketRequest, v1.CreateBucketReply),
  deleteBucket: method(`${meta}DeleteBucket`, 'unary', v1.DeleteBucketRequest, v1.Empty),
  listBuckets: method(`${meta}ListBuckets`, 'unary', v1.Empty, v1.ListBucketsReply),
  grantLease: method(`${meta}GrantLease`, 'unary', v1.GrantLeaseRequest, v1.Lease),
  renewLease: method(`${meta}RenewLease`, 'unary', v1.RenewLeaseRequest, v1.Lease),
  releaseLease: method(`${meta}ReleaseLease`, 'unary', v1.ReleaseLeaseRequest, v1.Empty),
  place: method(`${meta}Place`, 'unary', v1.PlaceRequest, v1.PlaceReply),
  stagePage: method(`${meta}StagePage`, 'unary', v1.StagePageRequest, v1.Empty),
  commit: method(`${meta}Commit`, 'unary', v1.CommitRequest, v1.CommitReply),
  openObject: method(`${meta}OpenObject`, 'unary', v1.OpenObjectRequest, v1.OpenObjectReply),
  manifestPage: method(`${meta}ManifestPage`, 'unary', v1.ManifestPageRequest, v1.ManifestPageReply),
  listObjects: method(`${meta}ListObjects`, 'unary', v1.ListObjectsRequest, v1.ListObjectsReply),
  commitChunks: method(`${meta}CommitChunks`, 'unary', v1.CommitChunksRequest, v1.CommitChunksReply),
  statChunk: method(`${meta}StatChunk`, 'unary', v1.ChunkIdRequest, v1.StatChunkReply),
  unpinChunk: method(`${meta}UnpinChunk`, 'unary', v1.ChunkIdRequest, v1.Empty),
  reportReplica: method(`${meta}ReportReplica`, 'unary', v1.ReportReplicaRequest, v1.Empty),
  status: method(`${meta}Status`, 'unary', v1.Empty, v1.StatusReply),
  openSession: method(`${meta}OpenSession`, 'unary', v1.OpenSessionRequest, v1.OpenSessionReply),
  keepSession: method(`${meta}KeepSession`, 'unary', v1.SessionIdRequest, v1.Empty),
  closeSession: method(`${meta}CloseSession`, 'unary', v1.SessionIdRequest, v1.Empty),
  setQuota: method(`${meta}SetQuota`, 'unary', v1.SetQuotaRequest, v1.Empty),
  listQuotas: method(`${meta}ListQuotas`, 'unary', v1.Empty, v1.ListQuotasReply),
  addMetaMember: method(`${meta}AddMetaMember`, 'unary', v1.AddMetaMemberRequest, v1.MetaMembersReply),
  removeMetaMember: method(`${meta}RemoveMetaMember`, 'unary', v1.RemoveMetaMemberRequest, v1.MetaMembersReply),
  transferLeadership: method(
    `${meta}TransferLeadership`,
    'unary',
    v1.TransferLeadershipRequest,
    v1.TransferLeadershipReply,
  ),
  versionStatus: method(`${meta}VersionStatus`, 'unary', v1.Empty, v1.VersionStatusReply),
  raiseVersion: method(`${meta}RaiseVersion`, 'unary', v1.RaiseVersionRequest, v1.VersionStatusReply),
  deletesStatus: method(`${meta}DeletesStatus`, 'unary', v1.Empty, v1.DeletesStatusReply),
  resumeDeletes: method(`${meta}ResumeDeletes`, 'unary', v1.Empty, v1.DeletesStatusReply),
  scrubStatus: method(`${meta}ScrubStatus`, 'unary', v1.Empty, v1.ScrubStatusReply),
  directScrub: method(`${meta}DirectScrub`, 'unary', v1.DirectScrubRequest, v1.DirectScrubReply),
}

const chunks = method(`${storage}Chunks`, 'stream', v1.ChunkRequest, v1.ChunkReply)

export const storageMethods = {
  chunks: {
    ...chunks,
    encodeRequest: (message) => layChunkRequest(message) ?? chunks.encodeRequest(message),
    encodeReply: (message) => layChunkReply(message) ?? chunks.encodeReply(message),
  } satisfies typeof chunks,
  putChunk: method(`${storage}PutChunk`, 'unary', v1.PutChunkRequest, v1.PutDone),
  getChunk: method(`${storage}GetChunk`, 'unary', v1.Get, v1.GetChunkReply),
}

export const nodeMethods = {
  attach: method('/holdfast.v1.NodeControl/Attach', 'stream', v1.NodeMessage, v1.MetaOrder),
}

const raftMessages = method(`${raft}Messages`, 'stream', v1.RaftFrame, v1.RaftWelcome)

export const raftMethods = {
  messages: { ...raftMessages, encodeRequest: layRaftFrame } satisfies typeof raftMessages,
  snapshot: method(`${raft}Snapshot`, 'stream', v1.SnapshotPiece, v1.SnapshotDone),
  hello: method(`${raft}Hello`, 'unary', v1.HelloRequest, v1.HelloReply),
  form: method(`${raft}Form`, 'unary', v1.FormRequest, v1.FormReply),
}

/** Bodies of the Session stream, by the name of their `oneof` field: equal in request and reply. */
export type SessionCall = Exclude<holdfast.v1.MetaRequest['body'], undefined>
