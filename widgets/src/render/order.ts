/** In which order cells are drawn, so that no group hides another by accident of its row. */

/** A fixed shuffle: the same for the same number of cells, so that pictures repeat. */
export function shuffled(n: number): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  let seed = 0x9e3779b9;
  for (let i = n - 1; i > 0; i--) {
    // xorshift32: speed matters at a million cells, quality does not.
    seed ^= seed << 13;
    seed ^= seed >>> 17;
    seed ^= seed << 5;
    const j = (seed >>> 0) % (i + 1);
    const swap = order[i];
    order[i] = order[j];
    order[j] = swap;
  }
  return order;
}

/**
 * Cells in layers; `base` itself where there is one layer only: `base` within each, lower layers first. With `byCode` the layer is the colour code (high values on
 * top, missing ones at the bottom); cells with any flag come above those without.
 */
export function layered(
  base: Uint32Array,
  codes: Uint8Array | null,
  flags: Uint8Array | null,
  byCode: boolean,
): Uint32Array {
  if (!(byCode && codes) && (flags?.every((flag) => flag === 0) ?? true)) return base;
  const n = base.length;
  const layer = (i: number) => {
    const code = byCode && codes ? (codes[i] === 255 ? 0 : codes[i] + 1) : 0;
    return (flags?.[i] ? 256 : 0) + code;
  };
  const starts = new Uint32Array(513);
  for (let i = 0; i < n; i++) starts[layer(i) + 1]++;
  for (let l = 0; l < 512; l++) starts[l + 1] += starts[l];
  const order = new Uint32Array(n);
  for (let k = 0; k < n; k++) order[starts[layer(base[k])]++] = base[k];
  return order;
}
