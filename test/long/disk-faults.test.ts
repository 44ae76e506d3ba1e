/** System calls of the engine that fail, every single one: see support/disk-fault-run.ts. */

import { failEach, systemFaults } from '../support/disk-fault-run.ts'
import { mayTrace } from '../support/strace.ts'

if (mayTrace()) {
  describe('real disk: every system call fails once', () => {
    for (const fault of systemFaults) {
      const where = fault.paths === undefined ? '' : ' of the index'
      it(`${fault.call}${where}: ${fault.fault} loses nothing acknowledged, and is told`, () => failEach(fault, true))
    }
  })
} else {
  process.stdout.write('strace is not installed or may not trace: system calls fail on the simulated disk only\n')
}
