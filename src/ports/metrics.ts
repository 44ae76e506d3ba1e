/**
 * Counters, gauges and histograms by Prometheus convention: names `holdfast_*`, base units, `_total` on counters.
 * Label values come from closed or small sets, never from object names or client addresses.
 */
export type Labels = Readonly<Record<string, string>>

/** One value read at the moment of a scrape. */
export interface Sample {
  readonly name: string
  readonly help: string
  /** Default gauge. */
  readonly kind?: 'counter' | 'gauge'
  readonly value: number
  readonly labels?: Labels
}

export interface Metrics {
  /** Adds to a counter. Registered on first use. */
  count(name: string, help: string, by?: number, labels?: Labels): void
  /** Sets a gauge. */
  gauge(name: string, help: string, value: number, labels?: Labels): void
  /** Observes a duration in seconds in a histogram. */
  observe(name: string, help: string, seconds: number, labels?: Labels): void
}
