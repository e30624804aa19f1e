/**
 * Questions to the kernel and their answers. Each question has a number; an answer without a question that still waits is
 * dropped, whatever the reason (it was given up, or a newer one took its place).
 */

export interface Reply {
  content: Record<string, unknown>;
  buffers: DataView[];
}

type Send = (content: Record<string, unknown>) => void;

interface Waiting {
  resolve: (reply: Reply) => void;
  reject: (error: Error) => void;
  since: number;
}

/** An answer that is no longer wanted; callers ignore it. */
export class Superseded extends Error {}

/** The kernel's own sentence why not; any other error means that it may not have been asked at all. */
export class Refused extends Error {}

export class Requests {
  #next = 1;
  #waiting = new Map<number, Waiting>();
  #latest = new Map<string, number>();

  constructor(private readonly send: Send) {}

  /**
   * Ask, and wait for the answer.
   *
   * @param lane Where given, a newer question in the same lane makes this one's answer unwanted.
   */
  ask(content: Record<string, unknown>, lane?: string): Promise<Reply> {
    const id = this.#next++;
    if (lane) {
      const older = this.#latest.get(lane);
      if (older !== undefined) this.#drop(older, new Superseded(lane));
      this.#latest.set(lane, id);
    }
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, since: performance.now() });
      this.send({ ...content, id });
    });
  }

  /** Take a message from the kernel. Returns whether it answered a question that waits. */
  answer(content: Record<string, unknown>, buffers: DataView[]): boolean {
    const id = content.id;
    const waiting = typeof id === "number" ? this.#waiting.get(id) : undefined;
    if (!waiting) return false;
    this.#waiting.delete(id as number);
    if (typeof content.error === "string") waiting.reject(new Refused(content.error));
    else waiting.resolve({ content, buffers });
    return true;
  }

  /** For how long the oldest question has waited, in milliseconds; 0 where none does. */
  waitingFor(): number {
    let oldest = Infinity;
    for (const { since } of this.#waiting.values()) oldest = Math.min(oldest, since);
    return oldest === Infinity ? 0 : performance.now() - oldest;
  }

  #drop(id: number, error: Error) {
    this.#waiting.get(id)?.reject(error);
    this.#waiting.delete(id);
  }
}
