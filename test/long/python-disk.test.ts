/**
 * A stranger in Python who has only docs/formats reads the golden disk and lists its chunks, every checksum verified. Where
 * there is no Python the case does not exist, and a line says so.
 */

import { expect } from 'chai'
import { runCommand } from '../support/processes.ts'

const found = (await runCommand('python3', ['--version'])).code === 0
if (!found) process.stdout.write('no Python here: the case of the foreign reader of disks is not defined\n')

if (found) {
  describe('long: a Python reader of disks with only docs/formats', () => {
    it('lists the chunks of the golden disk', async () => {
      const { code, output } = await runCommand('python3', ['test/foreign/read_disk.py', 'test/fixtures/disk-1'])
      expect(code, output).to.equal(0)
      expect(output.trim().split('\n')).to.deep.equal([
        'disk f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff of node s1',
        'chunk 1: 3 bytes, lease 65536, root 788ced9ca3b8a943, verified',
        'chunk 2: 16385 bytes, lease 65536, root 9d6c1d5db17b7bfe, verified',
        'chunk 5: 10000 bytes, lease 0, root ca73d864600ac0d3, verified',
      ])
    })
  })
}
