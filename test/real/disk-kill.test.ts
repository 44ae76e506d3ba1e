/** The engine in a process that is killed again and again under load: see support/disk-kill-run.ts. */

import { killRun } from '../support/disk-kill-run.ts'

describe('real disk: kill -9 under load', function () {
  this.timeout(120_000)

  it('loses nothing acknowledged, brings nothing deleted back and leaks no extent in 20 kills', async () => {
    await killRun(20, Number(process.env['DISK_SEED'] ?? 1))
  })
})
