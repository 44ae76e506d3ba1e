/**
 * The metrics port kept in memory and written as Prometheus text (exposition format 0.0.4).
 *
 * Bounded: at most `seriesMax` series; further label combinations are counted and dropped, because a label from a hostile
 * or careless source must not grow memory. Families and series are written in name order, so that two scrapes compare.
 */

import { Histogram, latencyBounds } from '../base/histogram.ts'
import type { Labels, Metrics, Sample } from '../ports/metrics.ts'

const seriesMax = 5000

type Kind = 'counter' | 'gauge' | 'histogram'

interface Family {
  readonly kind: Kind
  readonly help: string
  readonly values: Map<string, number>
  readonly histograms: Map<string, Histogram>
}

/** Metrics that can be scraped. */
export interface TextMetrics extends Metrics {
  /** The whole page. */
  render(): string
  /**
   * `source` is asked at every scrape for values that are cheap to read and dear to keep. A series it no longer gives is
   * gone from the page: a leader that was deposed must not go on saying what it knew. Its names are used nowhere else.
   */
  onScrape(source: () => readonly Sample[]): void
}

function escapeValue(value: string): string {
  if (!/[\\"\n]/.test(value)) return value
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
}

function labelText(labels: Labels | undefined): string {
  if (labels === undefined) return ''
  const names = Object.keys(labels)
  // Metrics are counted on every call of a node: most have one label, or two.
  if (names.length > 1) names.sort()
  let out = ''
  for (const name of names) {
    const comma = out === '' ? '' : ','
    out += `${comma}${name}="${escapeValue(labels[name] ?? '')}"`
  }
  return out
}

function line(name: string, labels: string, value: number): string {
  return `${name}${labels === '' ? '' : `{${labels}}`} ${value}\n`
}

function histogramLines(name: string, labels: string, histogram: Histogram): string {
  const prefix = labels === '' ? '' : `${labels},`
  let out = ''
  let cumulative = 0
  for (let i = 0; i < histogram.bounds.length; i++) {
    cumulative += histogram.counts[i] ?? 0
    out += line(`${name}_bucket`, `${prefix}le="${histogram.bounds[i]}"`, cumulative)
  }
  out += line(`${name}_bucket`, `${prefix}le="+Inf"`, histogram.count)
  out += line(`${name}_sum`, labels, histogram.sum)
  return out + line(`${name}_count`, labels, histogram.count)
}

class TextMetricsDriver implements TextMetrics {
  readonly #families = new Map<string, Family>()
  readonly #sources: (() => readonly Sample[])[] = []
  /** Families that the sources gave at the last scrape. */
  readonly #sampled = new Set<string>()
  #series = 0
  #dropped = 0

  #family(name: string, help: string, kind: Kind): Family {
    let family = this.#families.get(name)
    if (family === undefined) {
      family = { kind, help, values: new Map(), histograms: new Map() }
      this.#families.set(name, family)
    }
    return family
  }

  /** True when a new series may be kept. */
  #admit(): boolean {
    if (this.#series >= seriesMax) {
      this.#dropped += 1
      return false
    }
    this.#series += 1
    return true
  }

  count(name: string, help: string, by = 1, labels?: Labels): void {
    const { values } = this.#family(name, help, 'counter')
    const key = labelText(labels)
    const before = values.get(key)
    if (before === undefined && !this.#admit()) return
    values.set(key, (before ?? 0) + by)
  }

  gauge(name: string, help: string, value: number, labels?: Labels): void {
    const { values } = this.#family(name, help, 'gauge')
    const key = labelText(labels)
    if (!values.has(key) && !this.#admit()) return
    values.set(key, value)
  }

  observe(name: string, help: string, seconds: number, labels?: Labels): void {
    const { histograms } = this.#family(name, help, 'histogram')
    const key = labelText(labels)
    let histogram = histograms.get(key)
    if (histogram === undefined) {
      if (!this.#admit()) return
      histogram = new Histogram(latencyBounds)
      histograms.set(key, histogram)
    }
    histogram.observe(seconds)
  }

  onScrape(source: () => readonly Sample[]): void {
    this.#sources.push(source)
  }

  #sample(): void {
    for (const name of this.#sampled) {
      this.#series -= this.#families.get(name)?.values.size ?? 0
      this.#families.delete(name)
    }
    this.#sampled.clear()
    for (const source of this.#sources) {
      for (const { name, help, kind, value, labels } of source()) {
        this.#sampled.add(name)
        const { values } = this.#family(name, help, kind ?? 'gauge')
        const key = labelText(labels)
        if (values.has(key) || this.#admit()) values.set(key, value)
      }
    }
  }

  render(): string {
    this.#sample()
    let out = ''
    for (const name of [...this.#families.keys()].sort()) {
      const family = this.#families.get(name)
      if (family === undefined) continue
      out += `# HELP ${name} ${family.help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}\n# TYPE ${name} ${family.kind}\n`
      for (const key of [...family.values.keys()].sort()) out += line(name, key, family.values.get(key) ?? 0)
      for (const key of [...family.histograms.keys()].sort()) {
        const histogram = family.histograms.get(key)
        if (histogram !== undefined) out += histogramLines(name, key, histogram)
      }
    }
    out += '# HELP holdfast_metrics_dropped_total Observations dropped because there were too many series.\n'
    out += '# TYPE holdfast_metrics_dropped_total counter\n'
    return out + line('holdfast_metrics_dropped_total', '', this.#dropped)
  }
}

/** Metrics in memory. */
export function createTextMetrics(): TextMetrics {
  return new TextMetricsDriver()
}
