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

  /**
   * Forget moments that nobody can come to any more.
   *
   * @param now What is now; where it is none of those beside the gap, it is added as the last step.
   */
  drop(gone: (moment: T) => boolean, now: T) {
    const left = this.#moments.map((moment) => !gone(moment));
    const at = left.slice(0, Math.max(0, this.#at)).filter(Boolean).length;
    this.#moments = this.#moments.filter((_, i) => left[i]);
    const beside = [at, at - 1].find(
      (i) => i >= 0 && i < this.#moments.length && same(this.#moments[i], now),
    );
    this.#at = beside ?? Math.min(at, this.#moments.length) - 1;
    if (beside === undefined) this.add(now);
  }

  /** Put something else in the place of each moment. */
  rewrite(change: (moment: T) => T) {
    this.#moments = this.#moments.map(change);
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
    if (a.length !== b.length) return false;
    for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
    return true;
  }
  const [left, right] = [Object.entries(a), Object.entries(b)];
  return (
    left.length === right.length &&
    left.every(([key, value]) => key in b && same(value, (b as Record<string, unknown>)[key]))
  );
}
