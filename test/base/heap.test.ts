/** IndexedHeap against a sorted array that is searched in full. */

import { expect } from 'chai'
import fc from 'fast-check'
import { IndexedHeap } from '../../src/base/heap.ts'

const operations = fc.array(
  fc.oneof(
    fc.record({ kind: fc.constant('set' as const), key: fc.nat(20), value: fc.nat(5) }),
    fc.record({ kind: fc.constant('delete' as const), key: fc.nat(20) }),
    fc.record({ kind: fc.constant('pop' as const) }),
  ),
)

describe('IndexedHeap', () => {
  it('gives entries in order of value, then of age, under any changes', () => {
    fc.assert(
      fc.property(operations, (steps) => {
        const heap = new IndexedHeap<number, number>((a, b) => a - b)
        let model: { key: number; value: number; age: number }[] = []
        let age = 0
        const first = () => model.toSorted((a, b) => a.value - b.value || a.age - b.age)[0]
        for (const step of steps) {
          if (step.kind === 'set') {
            heap.set(step.key, step.value)
            const known = model.find((entry) => entry.key === step.key)
            if (known !== undefined) known.value = step.value
            else model.push({ key: step.key, value: step.value, age: age++ })
          } else if (step.kind === 'delete') {
            expect(heap.delete(step.key)).to.equal(model.some((entry) => entry.key === step.key))
            model = model.filter((entry) => entry.key !== step.key)
          } else {
            const wanted = first()
            expect(heap.pop()?.key).to.equal(wanted?.key)
            model = model.filter((entry) => entry !== wanted)
          }
          expect(heap.size).to.equal(model.length)
          expect(heap.peek()?.key).to.equal(first()?.key)
          for (const entry of model) expect(heap.get(entry.key)).to.equal(entry.value)
        }
      }),
    )
  })
})
