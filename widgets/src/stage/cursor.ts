/** From cell to cell by key: which one lies next. Places are x, y pairs in the plane, NaN where a cell has none; y goes up. */

/** A direction along one of the axes. */
export type Towards = readonly [number, number];

type Shown = (cell: number) => boolean;

/** The shown cell nearest to a place; -1 where none is shown. */
export function nearestCell(places: Float32Array, shown: Shown, x: number, y: number): number {
  let [best, found] = [Infinity, -1];
  for (let i = 0, n = places.length >> 1; i < n; i++) {
    const far = (places[2 * i] - x) ** 2 + (places[2 * i + 1] - y) ** 2;
    if (far < best && shown(i)) [best, found] = [far, i];
  }
  return found;
}

/**
 * The shown cell nearest to another one among those that lie rather in a direction than beside it.
 *
 * @param least How far it must lie in that direction at least.
 * @returns The same cell where none lies there.
 */
export function nextCell(
  places: Float32Array,
  shown: Shown,
  from: number,
  [across, up]: Towards,
  least: number,
): number {
  const [x, y] = [places[2 * from], places[2 * from + 1]];
  let [best, found] = [Infinity, from];
  for (let i = 0, n = places.length >> 1; i < n; i++) {
    const [dx, dy] = [places[2 * i] - x, places[2 * i + 1] - y];
    const along = dx * across + dy * up;
    if (!(along > least) || Math.abs(dx * up - dy * across) > along) continue;
    const far = dx * dx + dy * dy;
    if (far < best && shown(i)) [best, found] = [far, i];
  }
  return found;
}
