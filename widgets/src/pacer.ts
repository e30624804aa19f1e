/**
 * Paces what a slider asks of the kernel. While the hand moves there is one question at a time, always with the newest
 * doses; when it lets go, the final doses are asked at once, whatever is under way.
 */

import { type Doses, sameDoses } from "./reducers.ts";

type Ask = (doses: Doses, commit: boolean) => Promise<void>;

export class DosePacer {
  #inFlight = 0;
  #dragging = false;
  #asking = true;
  #wanted: Doses | null = null;
  #asked: Doses | null = null;
  #settled = new Set<() => void>();

  constructor(private readonly ask: Ask) {}

  /** Whether the hand is on a slider. */
  get dragging(): boolean {
    return this.#dragging;
  }

  /** Whether doses that come from Python are older than what the hand has set. */
  get busy(): boolean {
    return this.#dragging || this.#inFlight > 0;
  }

  /**
   * The hand has moved a slider.
   *
   * @param commit Whether it has let go.
   * @param ask Whether to ask at all before it lets go.
   */
  move(doses: Doses, commit: boolean, ask = true) {
    this.#dragging = !commit;
    this.#wanted = doses;
    this.#asking = ask;
    if (commit || (ask && this.#inFlight === 0)) void this.#go(commit);
  }

  /** Call back whenever nothing is under way any more. */
  onSettled(callback: () => void): () => void {
    this.#settled.add(callback);
    return () => this.#settled.delete(callback);
  }

  async #go(commit: boolean) {
    const doses = this.#wanted!;
    if (!commit && this.#asked && sameDoses(doses, this.#asked)) return;
    this.#asked = doses;
    this.#inFlight++;
    try {
      await this.ask(doses, commit);
    } catch {
      // The bench shows the sentence; the pace goes on.
    }
    this.#inFlight--;
    if (this.#inFlight > 0) return;
    if (this.#dragging && this.#asking && this.#wanted && !sameDoses(this.#wanted, doses)) {
      void this.#go(false);
    } else {
      for (const callback of this.#settled) callback();
    }
  }
}
