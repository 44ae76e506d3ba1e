/** The turn of the real event loop that the simulator may not take by itself. */

/** Resolves when every promise that is settled now has been followed up. */
export function drain(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve)
  })
}
