/** The long version of test/real/upgrade: every node forward, every node back, every node forward again, all under load. */

import { runUpgrade } from '../support/upgrade-run.ts'

describe('long: rolling upgrade', function () {
  this.timeout(600_000)

  it('from 0.1.0 under load, all the way back before the version is raised, and forward for good', async () => {
    await runUpgrade({ allBack: true })
  })
})
