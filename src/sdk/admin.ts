/**
 * What operators do from a program: status, membership of the metadata service, quotas, versions, held deletes.
 *
 * Changes of the membership take as long as a node needs to catch up; the call waits for it as far as the cluster does
 * and says when it is still going on.
 */

import { isNodeId } from '../model/ids.ts'
import { asStoreError, StoreError } from '../model/errors.ts'
import type { Env } from '../ports/env.ts'
import { v1 } from '../wire/messages.ts'
import { deletesOf, membersOf, quotaOf, scrubOf, statusOf, versionsOf } from './entries.ts'
import type { MetaCaller } from './meta-calls.ts'
import { checkAddress, checkBound, checkBucket, checkText } from './operations.ts'
import { within } from './scope.ts'
import { survey } from './survey.ts'
import type { Admin, MetaAdmin, QuotaAdmin, ScrubAdmin } from './types.ts'

/** The cluster answers a change of the membership within this time, caught up or not. */
const changeMs = 80_000
/** A leader waits so long for its successor at most. */
const transferMs = 15_000
/** A leader waits so long for the nodes at most. */
const directMs = 15_000

function checkNode(id: unknown): asserts id is string {
  checkText(id, 'the node id')
  if (!isNodeId(id)) {
    throw new StoreError(
      'INVALID_ARGUMENT',
      `${JSON.stringify(id.slice(0, 80))} is not a node name: use a-z, 0-9, ".", "_" and "-", at most 63`,
    )
  }
}

/** What a node of version 1 answers a call that it does not know. */
const unknownCall = 'a session request without a known call'

/** Says of calls that an older program does not know what is the matter. */
function explained(meta: MetaCaller): MetaCaller {
  return {
    call: async (kind, request, options) => {
      try {
        return await meta.call(kind, request, options)
      } catch (error) {
        const failure = asStoreError(error, kind)
        if (failure.code !== 'INVALID_ARGUMENT' || !failure.message.startsWith(unknownCall)) throw failure
        throw new StoreError(
          'INCOMPATIBLE_VERSION',
          `${kind}: the leader runs an older program that does not know this call: upgrade every meta node first`,
          { cause: failure },
        )
      }
    },
  }
}

/** The admin calls of a Store. `addresses`: the meta nodes that were named. */
export function createAdmin(env: Env, caller: MetaCaller, addresses: readonly string[]): Admin {
  const meta = explained(caller)
  const { clock } = env
  return {
    status: (options = {}) =>
      within(clock, options, 'status', async (signal) => statusOf(await meta.call('status', {}, { signal }))),
    survey: (options = {}) => survey(env, addresses, options),
    meta: createMetaAdmin(env, meta),
    quotas: createQuotas(env, meta),
    version: {
      status: (options = {}) =>
        within(clock, options, 'versions', async (signal) =>
          versionsOf(await meta.call('versionStatus', {}, { signal })),
        ),
      raise: (version = 0, options = {}) =>
        within(clock, options, 'raise the version', async (signal) => {
          checkBound(version, 'the version')
          return versionsOf(await meta.call('raiseVersion', { version }, { signal }))
        }),
    },
    deletes: {
      status: (options = {}) =>
        within(clock, options, 'deletes', async (signal) =>
          deletesOf(await meta.call('deletesStatus', {}, { signal })),
        ),
      resume: (options = {}) =>
        within(clock, options, 'resume deletes', async (signal) =>
          deletesOf(await meta.call('resumeDeletes', {}, { signal })),
        ),
    },
    scrub: createScrub(env, meta),
  }
}

function createScrub(env: Env, meta: MetaCaller): ScrubAdmin {
  const direct =
    (action: 'start' | 'pause' | 'resume'): ScrubAdmin['start'] =>
    (node, options = {}) =>
      within(env.clock, options, `${action} the scrub`, async (signal) => {
        if (node !== undefined) checkNode(node)
        const { disks, refused } = await meta.call(
          'directScrub',
          { action, node: node ?? '' },
          { signal, attemptMs: directMs },
        )
        return { disks, refused: [...refused] }
      })
  return {
    status: (options = {}) =>
      within(env.clock, options, 'scrub status', async (signal) =>
        scrubOf(await meta.call('scrubStatus', {}, { signal })),
      ),
    start: direct('start'),
    pause: direct('pause'),
    resume: direct('resume'),
  }
}

function createMetaAdmin(env: Env, meta: MetaCaller): MetaAdmin {
  const members = async (signal: AbortSignal): Promise<ReturnType<typeof membersOf>> =>
    membersOf((await meta.call('status', {}, { signal })).meta)
  return {
    ls: (options = {}) => within(env.clock, options, 'list meta nodes', members),
    add: (id, address, options = {}) =>
      within(env.clock, options, `add meta node ${id}`, async (signal) => {
        checkNode(id)
        checkAddress(address)
        // Finds the leader by a quick call, so that the long one is not spent on a node that is not there.
        await members(signal)
        const reply = await meta.call('addMetaMember', { id, address }, { signal, attemptMs: changeMs })
        return { members: membersOf(reply.members), catchingUp: reply.catchingUp }
      }),
    remove: (id, options = {}) =>
      within(env.clock, options, `remove meta node ${id}`, async (signal) => {
        checkNode(id)
        await members(signal)
        const reply = await meta.call(
          'removeMetaMember',
          { id, force: options.force === true },
          {
            signal,
            attemptMs: changeMs,
            // It is gone: an earlier attempt, or somebody else, removed it.
            afterUnknown: (error) => (error.code === 'NOT_FOUND' ? new v1.MetaMembersReply() : undefined),
          },
        )
        return reply.members.length > 0 ? membersOf(reply.members) : members(signal)
      }),
    transfer: (to, options = {}) =>
      within(env.clock, options, 'transfer leadership', async (signal) => {
        if (to !== undefined) checkNode(to)
        await members(signal)
        const reply = await meta.call('transferLeadership', { to: to ?? '' }, { signal, attemptMs: transferMs })
        return { leader: reply.leader, tookMs: reply.tookMs }
      }),
  }
}

function createQuotas(env: Env, meta: MetaCaller): QuotaAdmin {
  return {
    list: (options = {}) =>
      within(env.clock, options, 'list quotas', async (signal) =>
        (await meta.call('listQuotas', {}, { signal })).quotas.map(quotaOf),
      ),
    set: (bucket, bounds, options = {}) =>
      within(env.clock, options, 'set a quota', async (signal) => {
        if (bucket !== null) checkBucket(bucket)
        const { bytesMax = 0, objectsMax = 0 } = bounds
        checkBound(bytesMax, 'bytesMax')
        checkBound(objectsMax, 'objectsMax')
        await meta.call('setQuota', { bucket: bucket ?? '', bytesMax, objectsMax }, { signal })
      }),
  }
}
