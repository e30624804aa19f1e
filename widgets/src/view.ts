/** What one view of a bench has of its own: its dialog, and its questions, which another view's do not take the place of. */

import type { Reply } from "./requests.ts";
import type { Store } from "./store.ts";

export class View {
  /** What lies over the bench: code, methods, keys, a card; null = nothing. */
  dialog: string | null = null;
  #listeners = new Set<() => void>();

  /** @param prefix Unique within the page: the start of every element id of this view. */
  constructor(
    readonly store: Store,
    readonly prefix: string,
  ) {}

  open(dialog: string | null) {
    this.dialog = dialog;
    for (const callback of [...this.#listeners]) callback();
  }

  onDialog(callback: () => void): () => void {
    this.#listeners.add(callback);
    return () => this.#listeners.delete(callback);
  }

  /**
   * Ask; of this view's questions in the same lane the newest counts. The kernel is told whose they are, so that it drops none
   * of another view's either.
   */
  ask(content: Record<string, unknown>, lane?: string): Promise<Reply> {
    return this.store.requests.ask({ ...content, view: this.prefix }, lane && `${this.prefix}:${lane}`);
  }

  /** A question whose answer is shown where it was asked; rejects with the sentence, or with `Superseded`. */
  async question<T>(content: Record<string, unknown>, lane?: string): Promise<T> {
    const answer = (await this.ask(content, lane)).content;
    if (answer.cancelled) throw new Error("Stopped.");
    return answer as unknown as T;
  }
}
