/** Undo and redo over moments that are compared by value; a moment that equals the present one is no step. */

const MOST = 100;

export class History<T extends object> {
  #moments: T[] = [];
  #at = -1;
  #held = false;

  get canUndo(): boolean {
    return this.#at > 0;
  }

  get canRedo(): boolean {
    return this.#at < this.#moments.length - 1;
  }

  /** Add what is now. Returns whether that was anything new; while held, nothing is. */
  add(moment: T): boolean {
    if (this.#held || (this.#at >= 0 && same(this.#moments[this.#at], moment))) return false;
    this.#moments = [...this.#moments.slice(0, this.#at + 1), moment].slice(-MOST);
    this.#at = this.#moments.length - 1;
    return true;
  }

  /** Put what is now in the place of the last step. */
  amend(moment: T): boolean {
    if (this.#held || this.#at < 1) return this.add(moment);
    this.#moments = this.#moments.slice(0, this.#at--);
    this.add(moment);
    return true;
  }

  back(): T | null {
    return this.canUndo ? this.#moments[--this.#at] : null;
  }

  forth(): T | null {
    return this.canRedo ? this.#moments[++this.#at] : null;
  }

  /** Do something that is no step of its own. */
  hold(work: () => void) {
    this.#held = true;
    try {
      work();
    } finally {
      this.#held = false;
    }
  }
}

/** Equal by value; arrays of bytes byte by byte. */
export function same(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (a instanceof Uint8Array && b instanceof Uint8Array) {
    return a.length === b.length && a.every((value, i) => value === b[i]);
  }
  const [left, right] = [Object.entries(a), Object.entries(b)];
  return (
    left.length === right.length &&
    left.every(([key, value]) => key in b && same(value, (b as Record<string, unknown>)[key]))
  );
}
