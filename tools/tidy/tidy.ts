/**
 * `npm run tidy`: the checks of ours that no linter has, over the whole source. Prints one line for each finding and
 * exits 1 when there is one.
 */

import { checkBanned } from './banned.ts'
import { checkLayers } from './layers.ts'
import { type Finding, readSources } from './source.ts'

const root = process.cwd()
const source = await readSources(root, 'src')
const around = (await Promise.all(['test', 'tools', 'bench'].map((folder) => readSources(root, folder)))).flat()
const findings: Finding[] = [...checkLayers(source), ...checkBanned([...source, ...around])]
for (const finding of findings) process.stdout.write(`${finding.path}:${finding.line}: ${finding.message}\n`)
if (findings.length > 0) {
  process.stdout.write(`tidy: ${findings.length} findings in ${source.length + around.length} files\n`)
  process.exitCode = 1
}
