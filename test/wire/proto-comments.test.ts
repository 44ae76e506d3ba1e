/**
 * The .proto files are the manual for other languages: what has no comment there is explained nowhere.
 */

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { protoRoot } from '../../src/drivers/grpc-reflection.ts'

const named =
  /^(?:(service|message|enum|rpc) (\w+)|(?:repeated |optional )?(?:map<[^>]*>|[\w.]+) (\w+) = \d+|(\w+) = -?\d+)/

/** `line: name` of every service, message, enum, rpc, field and enum value without a comment on the line above it. */
function uncommented(text: string): string[] {
  const lines = text.split('\n').map((line) => line.trim())
  return lines.flatMap((line, i) => {
    const match = named.exec(line)
    if (match === null || lines[i - 1]?.startsWith('//') === true) return []
    return [`${i + 1}: ${match[2] ?? match[3] ?? match[4]}`]
  })
}

describe('proto files', () => {
  const folder = join(protoRoot(), 'holdfast', 'v1')
  const files = readdirSync(folder).filter((name) => name.endsWith('.proto'))

  for (const file of files) {
    it(`${file} explains every service, rpc, message, field and enum value`, () => {
      expect(uncommented(readFileSync(join(folder, file), 'utf8'))).deep.equal([])
    })
  }

  it('are searched by a check that sees what lacks a comment', () => {
    const text = [
      'service S {',
      '  rpc Do(A) returns (B);',
      '}',
      'message A {',
      '  oneof body {',
      '    // Said.',
      '    A said = 1;',
      '    holdfast.v1.A unsaid = 2;',
      '  }',
      '  map<string, uint64> counts = 3;',
      '  repeated uint64 many = 4 [packed = true];',
      '  reserved 5;',
      '}',
      'message Empty {}',
      'enum E {',
      '  E_NONE = 0;',
      '}',
    ].join('\n')
    const names = uncommented(text).map((finding) => finding.split(' ')[1])
    expect(names).deep.equal(['S', 'Do', 'A', 'unsaid', 'counts', 'many', 'Empty', 'E', 'E_NONE'])
    expect(files).to.have.length.greaterThan(4)
  })
})
