/** Histograms: which bucket a value falls in, and what is refused. */

import { expect } from 'chai'
import { AssertionError } from '../../src/base/assert.ts'
import { Histogram } from '../../src/base/histogram.ts'

describe('histogram', () => {
  it('counts a value in the first bucket whose bound it does not exceed', () => {
    const histogram = new Histogram([1, 2, 4])
    for (const value of [0, 1, 1.5, 2, 4, 5]) histogram.observe(value)
    expect(histogram.counts).deep.equal([2, 2, 1, 1])
    expect([histogram.count, histogram.sum]).deep.equal([6, 13.5])
  })

  it('gives quantiles that stay in their bucket', () => {
    const histogram = new Histogram([10, 20, 30])
    expect(histogram.quantile(0.5)).equal(undefined)
    for (let i = 0; i < 90; i++) histogram.observe(15)
    for (let i = 0; i < 10; i++) histogram.observe(25)
    expect(histogram.quantile(0.5)).within(10, 20)
    expect(histogram.quantile(0.95)).within(20, 30)
    histogram.observe(1000)
    expect(histogram.quantile(1)).equal(30)
  })

  it('adds the observations of another one', () => {
    const [one, two, both] = [new Histogram([10, 20]), new Histogram([10, 20]), new Histogram([10, 20])]
    for (const value of [5, 15, 99]) for (const histogram of [one, both]) histogram.observe(value)
    for (const value of [15, 16]) for (const histogram of [two, both]) histogram.observe(value)
    one.merge(two)
    expect(one).deep.equal(both)
    expect(one.quantile(0.5)).equal(both.quantile(0.5))
    expect(() => one.merge(new Histogram([10]))).throw(AssertionError)
  })

  it('refuses bounds that do not rise', () => {
    expect(() => new Histogram([1, 1])).throw(AssertionError)
  })
})
