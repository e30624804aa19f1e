/**
 * Between the doses of a response curve: piecewise cubic Hermite interpolants that do not overshoot (PCHIP, Fritsch and Butland
 * 1984), the same as `sl.response_curves` has them in Python. At dose 1 nothing changes and a curve may have a kink, so each side
 * has an interpolant of its own.
 */

/** Slope at an end of a curve, from the two steps next to it. */
function endSlope(h0: number, h1: number, m0: number, m1: number): number {
  const slope = ((2 * h0 + h1) * m0 - h0 * m1) / (h0 + h1);
  if (Math.sign(slope) !== Math.sign(m0)) return 0;
  return Math.sign(m0) !== Math.sign(m1) && Math.abs(slope) > 3 * Math.abs(m0) ? 3 * m0 : slope;
}

function innerSlope(before: number, after: number, m0: number, m1: number): number {
  if (m0 * m1 <= 0) return 0;
  const [w0, w1] = [2 * after + before, after + 2 * before];
  return (w0 + w1) / (w0 / m0 + w1 / m1);
}

export interface Between {
  /** Positions, in the doses that were given, of those next to the dose. */
  below: number;
  above: number;
  /** The value at the dose; `at(k)` is the value at the k-th of the doses that were given. */
  value: (at: (k: number) => number) => number;
}

/**
 * How values at a dose come from those at computed doses. A dose beyond them has the value of the nearest one.
 *
 * @param doses Ascending.
 */
export function between(doses: readonly number[], dose: number): Between {
  const side: number[] = [];
  for (const [k, x] of doses.entries()) if (dose <= 1 ? x <= 1 : x >= 1) side.push(k);
  const xs = (side.length > 0 ? side : [...doses.keys()]).map((k) => ({ k, x: doses[k] }));
  const exact = xs.find(({ x }) => x === dose);
  const edge = dose < xs[0].x ? xs[0] : dose > xs[xs.length - 1].x ? xs[xs.length - 1] : exact;
  if (edge) return { below: edge.k, above: edge.k, value: (at) => at(edge.k) };
  const i = xs.findIndex(({ x }) => x > dose) - 1;
  const h = (j: number) => xs[j + 1].x - xs[j].x;
  const [k0, k1, width, last] = [xs[i].k, xs[i + 1].k, h(i), xs.length - 2];
  const u = (dose - xs[i].x) / width;
  const slopes = (m: (j: number) => number): [number, number] => {
    if (last === 0) return [m(0), m(0)];
    const left = i === 0 ? endSlope(h(0), h(1), m(0), m(1)) : innerSlope(h(i - 1), h(i), m(i - 1), m(i));
    const right =
      i === last ? endSlope(h(i), h(i - 1), m(i), m(i - 1)) : innerSlope(h(i), h(i + 1), m(i), m(i + 1));
    return [left, right];
  };
  return {
    below: k0,
    above: k1,
    value: (at) => {
      const m = (j: number) => (at(xs[j + 1].k) - at(xs[j].k)) / h(j);
      const [left, right] = slopes(m);
      const [y0, y1] = [at(k0), at(k1)];
      const v = 1 - u;
      return (
        y0 * (1 + 2 * u) * v * v +
        width * left * u * v * v +
        y1 * u * u * (3 - 2 * u) -
        width * right * u * u * v
      );
    },
  };
}
