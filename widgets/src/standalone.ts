/**
 * The model behind an exported page: no kernel, no network. It holds the traits as they were, answers for the columns that
 * went along, and gives the precomputed responses of single genes, interpolated between their doses, and of several genes
 * together at just the doses that were computed.
 */

import { fromBase64 } from "./codec.ts";
import { type Doses, sameDoses } from "./reducers.ts";
import { type Response, respond } from "./response.ts";
import type { Perturbation } from "./types.ts";

interface Slice {
  offset: number;
  length: number;
}

/** What `export.py` writes: one JSON object, all bytes together in one text. */
interface Payload {
  traits: Record<string, unknown>;
  bytes: Record<string, Slice>;
  replies: Record<string, { content: Record<string, unknown>; buffer?: Slice }>;
  responses: { gene: string; dose: number; perturbation: Perturbation; after: Slice }[];
  together: { doses: Doses; perturbation: Perturbation; after: Slice }[];
  data: string;
  deflated: boolean;
}

/** Several genes at once, as it was computed. */
interface Together {
  doses: Doses;
  perturbation: Perturbation;
  after: Uint16Array;
}

type Callback = (...given: unknown[]) => void;

export async function standaloneModel(text: string) {
  const payload = JSON.parse(text) as Payload;
  const data = await fromBase64(payload.data, payload.deflated);
  const view = ({ offset, length }: Slice) => new DataView(data.buffer, data.byteOffset + offset, length);
  const traits: Record<string, unknown> = { ...payload.traits };
  for (const [name, slice] of Object.entries(payload.bytes)) traits[name] = view(slice);
  const placed = <Answer extends { after: Slice }>(answers: Answer[]) =>
    answers.map(({ after, ...rest }) => ({
      ...rest,
      after: new Uint16Array(data.slice(after.offset, after.offset + after.length).buffer),
    }));
  const [responses, together] = [placed(payload.responses), placed(payload.together)];
  return new StandaloneModel(traits, payload.replies, responses, view, together);
}

export class StandaloneModel {
  #listeners = new Map<string, Set<Callback>>();
  #names: string[] | undefined;

  constructor(
    private readonly traits: Record<string, unknown>,
    private readonly replies: Payload["replies"],
    private readonly responses: readonly Response[],
    private readonly view: (slice: Slice) => DataView,
    private readonly together: readonly Together[] = [],
  ) {}

  get(name: string): unknown {
    return this.traits[name];
  }

  set(name: string, value: unknown) {
    this.traits[name] = value;
    this.#tell(`change:${name}`);
  }

  save_changes() {}

  on(event: string, callback: Callback) {
    const set = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, set.add(callback));
  }

  off(event: string, callback: Callback) {
    this.#listeners.get(event)?.delete(callback);
  }

  send(content: Record<string, unknown>) {
    // Later, as a kernel's answer would be.
    queueMicrotask(() => this.#answer(content));
  }

  #tell(event: string, ...given: unknown[]) {
    for (const callback of [...(this.#listeners.get(event) ?? [])]) callback(...given);
  }

  #answer(content: Record<string, unknown>) {
    const reply = (body: Record<string, unknown>, buffers: DataView[] = []) =>
      this.#tell("msg:custom", { ...body, id: content.id }, buffers);
    if (content.type === "perturb") {
      this.#perturb(content.doses as Doses);
      reply({});
      return;
    }
    if (content.type === "cell") {
      const name = this.#cellName(content.cell as number);
      reply(name === undefined ? { error: "This page does not hold the cells' names." } : { name });
      return;
    }
    const key = content.type === "column" ? `column:${content.by}:${content.name}` : String(content.type);
    const known = this.replies[key];
    if (known) reply(known.content, known.buffer ? [this.view(known.buffer)] : []);
    else if (content.type === "column") reply({ error: `This page does not hold ${content.name}.` });
    else reply({ error: "This page has no kernel behind it; open the notebook to compute." });
  }

  #cellName(cell: number): string | undefined {
    const slice = this.replies.cells?.buffer;
    if (!this.#names && slice) this.#names = new TextDecoder().decode(this.view(slice)).split("\n");
    return this.#names?.[cell];
  }

  #perturb(doses: Doses) {
    const exact = this.together.find((answer) => sameDoses(answer.doses, doses));
    const found = exact
      ? { ...exact, perturbation: { ...exact.perturbation, doses } }
      : respond(this.responses, doses);
    this.traits.doses = doses;
    this.traits._perturbation = found?.perturbation ?? null;
    this.traits._after = found ? new DataView(found.after.buffer) : new DataView(new ArrayBuffer(0));
    const last = this.traits._after_info as { version: number } | undefined;
    this.traits._after_info = {
      dtype: "uint16",
      n: found?.after.length ?? 0,
      version: (last?.version ?? 0) + 1,
    };
    for (const name of ["_after", "_after_info", "_perturbation", "doses"]) this.#tell(`change:${name}`);
  }
}
