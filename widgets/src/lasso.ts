/**
 * Which points lie inside a drawn outline. The rule is the non-zero winding number, so that a loop drawn over itself
 * selects what a person sees as inside.
 */

export type Outline = Float64Array; // x0, y0, x1, y1, …; closed from the last point to the first

/** Drop points of a path that lie closer than `tolerance` to the last kept one; always keeps the end. */
export function thin(path: readonly number[], tolerance: number): Outline {
  const kept: number[] = [];
  const limit = tolerance * tolerance;
  for (let i = 0; i < path.length; i += 2) {
    const dx = path[i] - kept[kept.length - 2];
    const dy = path[i + 1] - kept[kept.length - 1];
    if (kept.length === 0 || i === path.length - 2 || dx * dx + dy * dy >= limit)
      kept.push(path[i], path[i + 1]);
  }
  return Float64Array.from(kept);
}

/** Winding number of a closed outline around a point; 0 is outside. */
export function winding(outline: Outline, x: number, y: number): number {
  let turns = 0;
  const n = outline.length;
  for (let i = 0, j = n - 2; i < n; j = i, i += 2) turns += crossing(outline, j, i, x, y);
  return turns;
}

/** +1 or -1 where the edge from `j` to `i` crosses the ray to the right of the point, upwards or downwards; else 0. */
function crossing(outline: Outline, j: number, i: number, x: number, y: number): number {
  const y0 = outline[j + 1];
  const y1 = outline[i + 1];
  if (y0 <= y === y1 <= y) return 0;
  const x0 = outline[j];
  const side = (outline[i] - x0) * (y - y0) - (x - x0) * (y1 - y0);
  if (y1 > y0) return side > 0 ? 1 : 0;
  return side < 0 ? -1 : 0;
}

const SLABS = 256;

/**
 * A test for many points: the outline's edges are sorted into horizontal slabs once, so that each point looks only at the
 * edges of its own slab.
 */
export function insideTest(outline: Outline): (x: number, y: number) => boolean {
  const n = outline.length;
  if (n < 6) return () => false;
  let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let i = 0; i < n; i += 2) {
    left = Math.min(left, outline[i]);
    right = Math.max(right, outline[i]);
    low = Math.min(low, outline[i + 1]);
    high = Math.max(high, outline[i + 1]);
  }
  if (!(high > low)) return () => false;
  const scale = SLABS / (high - low);
  const slab = (y: number) => Math.min(SLABS - 1, Math.max(0, Math.floor((y - low) * scale)));
  const edges: number[][] = Array.from({ length: SLABS }, () => []);
  for (let i = 0, j = n - 2; i < n; j = i, i += 2) {
    const a = slab(Math.min(outline[i + 1], outline[j + 1]));
    const b = slab(Math.max(outline[i + 1], outline[j + 1]));
    for (let s = a; s <= b; s++) edges[s].push(j, i);
  }
  return (x, y) => {
    if (!(x >= left && x <= right && y >= low && y <= high)) return false;
    let turns = 0;
    const own = edges[slab(y)];
    for (let e = 0; e < own.length; e += 2) turns += crossing(outline, own[e], own[e + 1], x, y);
    return turns !== 0;
  };
}

/** The outline of a box between two corners. */
export function boxOutline(x0: number, y0: number, x1: number, y1: number): Outline {
  return Float64Array.of(x0, y0, x1, y0, x1, y1, x0, y1);
}

/**
 * One byte per point, 1 = inside.
 *
 * @param positions x, y pairs; a point with NaN is outside.
 * @param visible one byte per point; where it is 0 the point cannot be selected. `null` = all are visible.
 */
export function selectInside(
  positions: Float32Array,
  outline: Outline,
  visible: Uint8Array | null,
): Uint8Array {
  const inside = insideTest(outline);
  const n = positions.length >> 1;
  const mask = new Uint8Array(n);
  for (let i = 0; i < n; i++) {
    if (visible && !visible[i]) continue;
    if (inside(positions[2 * i], positions[2 * i + 1])) mask[i] = 1;
  }
  return mask;
}

/**
 * One byte per point, 1 = within `radius` of a drawn path, as a brush of that size would touch it.
 *
 * @param positions x, y pairs; a point with NaN is not touched.
 * @param visible as for `selectInside`.
 */
export function nearPath(
  positions: Float32Array,
  path: Outline,
  radius: number,
  visible: Uint8Array | null,
): Uint8Array {
  const n = positions.length >> 1;
  const mask = new Uint8Array(n);
  let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let i = 0; i < path.length; i += 2) {
    left = Math.min(left, path[i] - radius);
    right = Math.max(right, path[i] + radius);
    low = Math.min(low, path[i + 1] - radius);
    high = Math.max(high, path[i + 1] + radius);
  }
  for (let i = 0; i < n; i++) {
    const [x, y] = [positions[2 * i], positions[2 * i + 1]];
    if ((visible && !visible[i]) || !(x >= left && x <= right && y >= low && y <= high)) continue;
    for (let p = 0; p < path.length; p += 2) {
      const q = Math.min(p + 2, path.length - 2);
      if (toSegment(x, y, path[p], path[p + 1], path[q], path[q + 1]) <= radius) {
        mask[i] = 1;
        break;
      }
    }
  }
  return mask;
}

/** Distance of a point from a piece of a line. */
function toSegment(x: number, y: number, x0: number, y0: number, x1: number, y1: number): number {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = dx * dx + dy * dy;
  const t = length === 0 ? 0 : Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / length));
  return Math.hypot(x - x0 - t * dx, y - y0 - t * dy);
}
