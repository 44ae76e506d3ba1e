/**
 * The cluster version (docs/RULES.md, rule 15): which commands and formats are in force. 1 is Holdfast 0.1, 2 is 0.2. It
 * is raised by an operator when every node runs a program that knows it, and there is no way back.
 */

/** Newest version that this program knows. */
export const newestVersion = 2
