/**
 * The name a user most likely meant: smallest edit distance within a third of the length, or nothing.
 */

/** Insertions, deletions, substitutions and swaps of neighbours between two short texts. */
export function editDistance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, column) => column)]
  const cell = (row: number, column: number): number => rows[row]?.[column] ?? 0
  for (let i = 1; i <= a.length; i++) {
    rows[i] = [i]
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1
      let best = Math.min(cell(i - 1, j) + 1, cell(i, j - 1) + 1, cell(i - 1, j - 1) + cost)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, cell(i - 2, j - 2) + 1)
      rows[i]?.push(best)
    }
  }
  return cell(a.length, b.length)
}

/** The closest of `names` to `wanted`; undefined when none is close. Ties go to the first. */
export function closest(wanted: string, names: Iterable<string>): string | undefined {
  if (wanted.length > 100) return undefined
  let best: string | undefined
  let bestDistance = Math.max(1, Math.floor(wanted.length / 3)) + 1
  for (const name of names) {
    if (name.length > 100) continue
    const distance = editDistance(wanted, name)
    if (distance < bestDistance) {
      best = name
      bestDistance = distance
    }
  }
  return best
}
