/**
 * From the released 0.1.0 to this build without a pause: real processes of both builds in one cluster, clients of both
 * under load. The long version, which also takes every node back once, is in test/long.
 */

import { runUpgrade } from '../support/upgrade-run.ts'

describe('real processes: rolling upgrade', function () {
  this.timeout(120_000)

  it('from 0.1.0 under load: one node back and forth, all forward, then the version is raised and 0.1.0 is refused (scenario 13)', async () => {
    await runUpgrade({ allBack: false })
  })
})
