/**
 * Stdin and stdout of the process, with the failures that Node hides made visible.
 *
 * Node gives an empty stream for a stdin that is a directory, and opens /dev/null in place of a closed one: a put would
 * then store an empty object and call it success. A write to a full disk ends without a word when nobody looks.
 *
 * Invariants: what cannot be read is an IO error before the first byte. A reader that went away ends the process
 * silently; any other failed write to stdout is one line on stderr and the exit code of its error.
 */

import { fstatSync, readFileSync, statSync, type Stats } from 'node:fs'
import { reportError } from '../faces/cli/context.ts'
import { fileError } from '../faces/cli/files.ts'
import { StoreError } from '../model/errors.ts'

/** 128 and the number of SIGPIPE: what a shell reports of a program whose reader went away. */
const exitOfBrokenPipe = 141

/** True when fd 0 is what Node puts in the place of a closed one: /dev/null, open for writing too. */
function isStandIn(stats: Stats): boolean {
  if (!stats.isCharacterDevice()) return false
  try {
    if (stats.rdev !== statSync('/dev/null').rdev) return false
    const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync('/proc/self/fdinfo/0', 'utf8'))?.[1]
    return flags !== undefined && (Number.parseInt(flags, 8) & 3) === 2
  } catch {
    return false // a system that does not tell: then it counts as given
  }
}

function checkStdin(): void {
  let stats: Stats
  try {
    stats = fstatSync(0)
  } catch (error) {
    throw fileError(error, 'read stdin')
  }
  if (stats.isDirectory()) {
    throw new StoreError('IO', 'read stdin: it is a directory: redirect a file or a pipe to it', {
      outcome: 'definite',
    })
  }
  if (isStandIn(stats)) {
    throw new StoreError('IO', 'read stdin: it is closed: redirect a file or a pipe to it', { outcome: 'definite' })
  }
}

/** What comes in on stdin. Throws IO when it is closed or a directory. */
export async function* readStdin(): AsyncGenerator<Uint8Array | string, void, void> {
  checkStdin()
  try {
    yield* process.stdin as AsyncIterable<Uint8Array | string>
  } catch (error) {
    throw fileError(error, 'read stdin')
  }
}

/** Resolves when stdout took the bytes. Rejects with NO_SPACE or IO. */
export function writeStdout(bytes: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(bytes, (error) => {
      if (error === null || error === undefined) resolve()
      else reject(fileError(error, 'write to stdout'))
    })
  })
}

/** Ends the process when stdout fails, whoever wrote to it. */
export function watchStdout(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    // `holdfast ls | head`: the reader has seen enough.
    if (error.code === 'EPIPE') process.exit(exitOfBrokenPipe)
    process.exit(reportError({ stderr: process.stderr }, fileError(error, 'write to stdout'), false))
  })
}
