import { describe, expect, it } from "vitest";
import { nearestCell, nextCell, type Towards } from "../src/stage/cursor.ts";

// A cross with two cells on its right arm, one off its axis, and one without a place.
const PLACES = Float32Array.of(0.5, 0.5, 0.6, 0.5, 0.9, 0.55, 0.5, 0.8, 0.5, 0.1, 0.1, 0.5, Number.NaN, 0.5);
const [RIGHT, LEFT, UP, DOWN]: Towards[] = [
  [1, 0],
  [-1, 0],
  [0, 1],
  [0, -1],
];
const all = () => true;

describe("the cell cursor", () => {
  it("begins at the cell nearest to a place, of those that are shown", () => {
    expect(nearestCell(PLACES, all, 0.58, 0.52)).toBe(1);
    expect(nearestCell(PLACES, (cell) => cell !== 1, 0.58, 0.52)).toBe(0);
    expect(nearestCell(PLACES, () => false, 0.5, 0.5)).toBe(-1);
  });

  it("goes to the nearest cell in a direction, and stays where none is", () => {
    const from = (cell: number, towards: Towards) => nextCell(PLACES, all, cell, towards, 0);
    expect([RIGHT, LEFT, UP, DOWN].map((towards) => from(0, towards))).toEqual([1, 5, 3, 4]);
    expect(from(1, RIGHT)).toBe(2);
    expect(from(2, RIGHT)).toBe(2);
    // What lies rather below than beside is passed over.
    expect(from(3, RIGHT)).toBe(2);
  });

  it("passes over cells that are hidden, and near ones when it leaps", () => {
    expect(nextCell(PLACES, (cell) => cell !== 1, 0, RIGHT, 0)).toBe(2);
    expect(nextCell(PLACES, all, 0, RIGHT, 0.2)).toBe(2);
  });
});
