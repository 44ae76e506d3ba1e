/** The same as test/real/disk-kill.test.ts, for longer and with other choices. */

import { killRun } from '../support/disk-kill-run.ts'

describe('real disk: kill -9 under load, for long', () => {
  it('loses nothing acknowledged, brings nothing deleted back and leaks no extent in 220 kills', async () => {
    for (let run = 0; run < 2; run++) await killRun(110, Number(process.env['DISK_SEED'] ?? 100) + run)
  })
})
