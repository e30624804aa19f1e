/**
 * One store per bench, shared by all of its views: the traits as Python keeps them, the columns fetched so far, and what
 * the hand is doing at this moment (which is shown at once and told to Python a little later).
 */

import type { AnyModel } from "@anywidget/types";
import { bytes, decode, packBits, toBase64, unpackBits } from "./codec.ts";
import { readGenes } from "./genes.ts";
import { History, same } from "./history.ts";
import { DosePacer } from "./pacer.ts";
import { withRange } from "./range.ts";
import { anyChange, type Doses, hasLevels, sameDoses } from "./reducers.ts";
import { Refused, Requests, Superseded } from "./requests.ts";
import { addUp, curveOf, type Estimate, type Response, reaches, respondTo } from "./response.ts";
import type { ColourBy, Column, ColumnReply, Perturbation, SessionState, Traits } from "./types.ts";

export type Model = AnyModel<Traits & Record<string, unknown>>;

/** What a view can listen to besides the traits' own names. */
type LocalKey =
  | "selection"
  | "columns"
  | "t"
  | "genes"
  | "waiting"
  | "rooting"
  | "hover"
  | "history"
  | "scrub"
  | "kept";
export type Key = keyof Traits | LocalKey;

/** What undo goes back to: everything that a person sets by hand. */
interface Moment {
  state: SessionState;
  doses: Doses;
  /** One bit per cell: many moments are kept, of benches with a million cells too. */
  selection: Uint8Array;
}

const CACHED_COLUMNS = 32;
/** While something runs or a question waits, how often the kernel is asked whether it is there. */
const PULSE_EVERY_MS = 3000;
/** For how long a question has waited when that begins: many answers take longer, and a kernel that computes is there. */
const PULSE_AFTER_MS = 2000;
const SAVE_AFTER_MS = 180;

export class Store {
  readonly requests: Requests;
  readonly pacer: DosePacer;
  /** Selected cells, one byte each. */
  selection = new Uint8Array(0);
  /** Before (0) to after (1), as all views show it. */
  t = 1;
  /** Names of all genes; null until they have been asked for. */
  genes: string[] | null = null;
  /** By name, the symbols of genes whose names are ids. */
  symbols: ReadonlyMap<string, string> = new Map();
  /** What the picked model knows of them. */
  known: { model: string; names: string[] } | null = null;
  /** The model whose genes have been told, if only that they are not known yet. */
  told: string | null = null;
  readonly dismissed = new Set<number>();
  /** Whether the next click on a cell picks the trajectory's root. */
  rooting = false;
  /** The cell under the pointer, marked in every plane; -1 = none. */
  hovered = -1;
  /** How far along pseudotime cells are shown, 0..1; null = all of them. */
  scrub: number | null = null;
  readonly history = new History<Moment>();

  /** Since when the kernel has been asked whether it is there; null = it has answered. */
  #pulse: number | null = null;
  /** Whether such a question is on its way, and when the last one went. */
  #pulsing = false;
  #beaten = 0;
  /** When Python has last said anything at all. */
  #heard = 0;
  #doses: Doses;
  /** The doses when the hand last let go: a step that comes while it turns one is no step of the dose. */
  #dosesSet: Doses;
  /** What response curves say of the present doses, until the exact answer is here. */
  #estimate: Estimate | null = null;
  #curves: Response[] = [];
  #places: Partial<Record<"before" | "after" | "second", { version: number; places: Uint16Array }>> = {};
  #state: SessionState;
  /** What the hand has set since Python was last told, and what it was told and has not answered. */
  #untold: Partial<SessionState> = {};
  #unanswered = new Set<Partial<SessionState>>();
  /** How many selections Python was told of and has not answered. */
  #unheard = 0;
  /** The selection as bits, packed once for each. */
  #packed: { of: Uint8Array; bits: Uint8Array } = { of: this.selection, bits: this.selection };
  #columns = new Map<string, Column>();
  /** What has been asked for and is not here; with the reason where it cannot be had. */
  #fetching = new Map<string, { fault: string }>();
  #kept = new Map<string, unknown>();
  #listeners = new Map<Key, Set<() => void>>();
  #watchers = new Set<(what: readonly string[]) => void>();
  /** Whether what is set is nobody's way to go on. */
  #unwatched = false;
  /** What is to be told once several things have been set; null = it is told at once. */
  #held: Set<Key> | null = null;
  #saveTimer: ReturnType<typeof setTimeout> | undefined;
  /** What is called back once the message that is being taken has been set as a whole. */
  #due = new Set<() => void>();
  /** Whether the names of genes have been asked for to show one of them. */
  #naming = false;
  #stop: (() => void)[] = [];

  constructor(readonly model: Model) {
    this.requests = new Requests((content) => {
      // A question is about what is on the screen.
      this.#tellState();
      model.send(content);
    });
    this.#doses = this.#dosesSet = model.get("doses") ?? {};
    this.#state = model.get("state");
    this.pacer = new DosePacer(async (doses, commit) => {
      await this.requests.ask({ type: "perturb", doses, commit });
      // Only what is set comes back as a trait, and a host may hand it on a moment after the answer.
      if (commit) await new Promise((later) => setTimeout(later));
    });
    this.selection = unpackBits(this.get("_selection"), this.n) as Uint8Array<ArrayBuffer>;
    this.#readCurves();
    this.#remember();
    const traits: (keyof Traits)[] = [
      "_meta",
      "_panels",
      "_layouts",
      "_models",
      "_plan",
      "_job",
      "_trajectory",
      "_errors",
      "_hardware",
      "_xy",
      "_xy_info",
      "_after",
      "_after_info",
      "_second",
      "_second_info",
      "_runs",
      "_changed",
      "_screen",
      "_compared",
    ];
    for (const name of traits) this.#onTrait(name, () => this.emit(name));
    this.#onTrait("_perturbation", () => {
      if (sameDoses(this.#doses, this.get("_perturbation")?.doses)) this.#estimate = null;
      this.emit("_perturbation");
      this.emit("_after");
    });
    this.#onTrait("_refused", () => {
      const refused = this.get("_refused");
      if (refused && sameDoses(this.#doses, refused)) this.#dropEstimate();
      this.emit("_perturbation");
    });
    const onCurves = () => {
      this.#readCurves();
      // They were of another plane or model, and so is what they said.
      if (this.#curves.length === 0) this.#dropEstimate();
    };
    for (const name of ["_curves", "_curve_places"] as const) this.#onTrait(name, onCurves);
    this.#onTrait("state", () => this.#stateChanged());
    this.#onTrait("doses", () => this.#dosesChanged());
    this.#onTrait("_selection", () => this.#selectionChanged());
    this.#onTrait("_data_version", () => {
      // Also what could not be had, and what is under way: it was asked of the results before.
      for (const known of [this.#columns, this.#fetching])
        for (const key of known.keys()) if (key.startsWith("result:")) known.delete(key);
      this.emit("columns");
    });
    this.#onTrait("_cells_version", () => {
      this.#columns.clear();
      this.#fetching.clear();
      this.genes = null;
      this.symbols = new Map();
      this.known = null;
      this.told = null;
      this.emit("columns");
      this.emit("genes");
    });
    const onMessage = (content: unknown, buffers: DataView[]) => {
      this.#heard = performance.now();
      this.requests.answer(content as Record<string, unknown>, buffers);
    };
    model.on("msg:custom", onMessage);
    this.#stop.push(() => model.off("msg:custom", onMessage));
    const timer = setInterval(() => this.#tick(), 1000);
    this.#stop.push(
      () => clearInterval(timer),
      this.pacer.onSettled(() => this.#dosesChanged()),
    );
  }

  // ---------------------------------------------------------------------------------- reading

  get<K extends keyof Traits>(name: K): Traits[K] {
    return this.model.get(name) as Traits[K];
  }

  /**
   * For how long nobody has answered or said anything, in milliseconds. An answer may take long, so a short question goes
   * beside it; a kernel that waits for its own work answers none and still tells how far that is.
   */
  get silence(): number {
    return this.#pulse === null ? 0 : performance.now() - Math.max(this.#pulse, this.#heard);
  }

  get running(): boolean {
    const status = this.get("_job")?.status;
    return status === "running" || status === "cancelling";
  }

  get n(): number {
    return this.get("_meta")?.n ?? 0;
  }

  get state(): SessionState {
    return this.#state;
  }

  get doses(): Doses {
    return this.#doses;
  }

  /** The effect that is shown: the exact one, or what the response curve says until that is here. */
  get shown(): Perturbation | null {
    return this.#estimate ? this.#estimate.perturbation : this.get("_perturbation");
  }

  /** Whether what is shown comes from response curves, and not from an exact answer. */
  get foreseen(): boolean {
    return this.#estimate !== null;
  }

  /** Whether the picture shows other doses than the sliders do, and the answer is still to come. */
  get computing(): boolean {
    const shown = this.get("_perturbation")?.doses;
    const refused = this.get("_refused");
    return !sameDoses(this.#doses, shown) && !(refused && sameDoses(this.#doses, refused));
  }

  /** Whether the doses of the sliders will have no answer: the model has refused them, or it was stopped. */
  get refused(): boolean {
    const refused = this.get("_refused");
    return !!refused && sameDoses(this.#doses, refused) && !sameDoses(refused, this.shown?.doses);
  }

  /** Whether the effect that is shown is of other doses than those of the sliders. */
  get outdated(): boolean {
    const { shown } = this;
    return shown !== null && !sameDoses(this.#doses, shown.doses);
  }

  /** Places as uint16 pairs; the same array as long as they are the same. */
  positions(which: "before" | "after" | "second"): Uint16Array | null {
    return which === "after" && this.#estimate ? this.#estimate.after : this.#exact(which);
  }

  #exact(which: "before" | "after" | "second"): Uint16Array | null {
    const name = ({ before: "_xy", after: "_after", second: "_second" } as const)[which];
    const info = this.get(`${name}_info`);
    if (!info?.n || info.n !== this.get("_xy_info")?.n) return null;
    const known = this.#places[which];
    if (known?.version === info.version) return known.places;
    const raw = bytes(this.get(name));
    if (raw.byteLength !== 2 * info.n) return null;
    const places = decode(raw, info) as Uint16Array;
    this.#places[which] = { version: info.version, places };
    return places;
  }

  /** A column if it is here; asks for it otherwise, and emits "columns" when it comes. */
  column(colour: ColourBy | null): Column | null {
    if (!colour) return null;
    const key = `${colour.by}:${colour.name}`;
    const known = this.#columns.get(key);
    if (known) {
      this.#columns.delete(key);
      this.#columns.set(key, known);
      return known;
    }
    if (!this.#fetching.has(key)) void this.#fetch(key, colour);
    return null;
  }

  /** Why a column could not be had. */
  columnFault(colour: ColourBy | null): string | null {
    return (colour && this.#fetching.get(`${colour.by}:${colour.name}`)?.fault) || null;
  }

  /** All gene names; asked for once. */
  async geneNames(): Promise<string[]> {
    if (!this.genes) {
      const { content, buffers } = await this.requests.ask({ type: "genes" });
      const { names, symbols } = readGenes(new TextDecoder().decode(bytes(buffers[0])), !!content.labels);
      this.genes = names;
      this.symbols = symbols;
      this.emit("genes");
    }
    return this.genes;
  }

  /** What people call a gene. Where that is not its name and not here yet, "genes" is emitted when it is. */
  geneLabel(name: string): string {
    if (!this.genes && !this.#naming && this.get("_meta")?.symbols) {
      this.#naming = true;
      this.geneNames()
        .catch(() => {})
        .finally(() => {
          this.#naming = false;
        });
    }
    return this.symbols.get(name) ?? name;
  }

  /** Genes that the picked model knows; all of them while that is not known. Asked again for another model. */
  async askKnown(): Promise<void> {
    const { model } = this.#state;
    if (!model || this.known?.model === model) return;
    const { buffers } = await this.requests.ask({ type: "known" }, "known");
    const names = await this.geneNames();
    this.told = model;
    this.emit("genes");
    if (!buffers[0]?.byteLength) return;
    const mask = unpackBits(buffers[0], names.length);
    this.known = { model, names: names.filter((_, i) => mask[i]) };
    this.emit("genes");
  }

  // ---------------------------------------------------------------------------------- writing

  patch(change: Partial<SessionState>) {
    this.#patch(change, false);
  }

  /** As `patch`, in the place of the step before: both were one thing to do. */
  amend(change: Partial<SessionState>) {
    this.#patch(change, true);
  }

  #patch(asked: Partial<SessionState>, amend: boolean) {
    const change = withRange(asked, this.#state);
    const before = this.#state as unknown as Record<string, unknown>;
    const changed = Object.entries(change).filter(([key, value]) => !same(before[key], value));
    this.#state = { ...this.#state, ...change };
    this.#remember(amend);
    // Python is to be told before anybody who listens asks it.
    if (this.get("_meta")?.static) {
      this.model.set("state", this.#state);
    } else if (changed.length > 0) {
      this.#untold = { ...this.#untold, ...Object.fromEntries(changed) };
      clearTimeout(this.#saveTimer);
      this.#saveTimer = setTimeout(() => this.#tellState(), SAVE_AFTER_MS);
    }
    this.emit("state");
    this.#acted(changed.length > 0 ? changed.map(([key]) => key) : Object.keys(asked));
  }

  /** Move a slider: shown now, asked of Python as fast as it answers. `commit` = the hand has let go. */
  setDoses(doses: Doses, commit: boolean) {
    this.#doses = doses;
    this.#estimate = this.#foresee(doses);
    if (commit) {
      this.#dosesSet = doses;
      this.#remember();
    }
    // With a response curve nothing needs to be asked before the hand lets go.
    this.pacer.move(doses, commit, !this.#estimate);
    this.emit("doses");
    this.emit("_perturbation");
    this.emit("_after");
    // A gene that was added is as it was until its dose is turned.
    if (anyChange(doses)) this.#acted(["doses"]);
  }

  setSelection(mask: Uint8Array) {
    this.selection = mask as Uint8Array<ArrayBuffer>;
    this.#remember();
    this.#tellSelection();
    this.emit("selection");
    this.#acted(["selection"]);
  }

  setT(t: number) {
    this.t = Math.min(1, Math.max(0, t));
    this.emit("t");
  }

  setHovered(cell: number) {
    if (cell === this.hovered) return;
    this.hovered = cell;
    this.emit("hover");
  }

  setScrub(scrub: number | null) {
    this.scrub = scrub;
    this.emit("scrub");
  }

  undo() {
    this.#restore(this.history.back());
  }

  redo() {
    this.#restore(this.history.forth());
  }

  setRooting(on: boolean) {
    this.rooting = on;
    this.emit("rooting");
  }

  /** Take a message off the screen, even where no kernel answers any more. */
  dismiss(fault: number) {
    this.dismissed.add(fault);
    this.emit("_errors");
    void this.act({ type: "dismiss", fault });
  }

  /** Something for Python to do; what goes wrong is shown by the bench in words. */
  act(content: Record<string, unknown>): Promise<boolean> {
    return this.requests.ask(content).then(
      () => true,
      () => false,
    );
  }

  /** What a panel keeps while another one is open: its settings, and what it has computed. */
  kept<T>(name: string, initial: T): T {
    return this.#kept.has(name) ? (this.#kept.get(name) as T) : initial;
  }

  keep(name: string, value: unknown) {
    this.#kept.set(name, value);
    this.emit("kept");
  }

  // -------------------------------------------------------------------------------- listening

  on(key: Key, callback: () => void): () => void {
    let set = this.#listeners.get(key);
    if (!set) {
      set = new Set();
      this.#listeners.set(key, set);
    }
    set.add(callback);
    return () => set.delete(callback);
  }

  emit(key: Key) {
    if (this.#held) {
      this.#held.add(key);
      return;
    }
    for (const callback of [...(this.#listeners.get(key) ?? [])]) callback();
  }

  /**
   * Called with what has been set by hand: fields of the state, "selection", "doses". Not told is what Python sets, what is undone,
   * and what is set `unwatched`.
   */
  onAct(callback: (what: readonly string[]) => void): () => void {
    this.#watchers.add(callback);
    return () => this.#watchers.delete(callback);
  }

  /** Set something of which `onAct` is not told. */
  unwatched(work: () => void) {
    const before = this.#unwatched;
    this.#unwatched = true;
    try {
      work();
    } finally {
      this.#unwatched = before;
    }
  }

  #acted(what: readonly string[]) {
    if (this.#unwatched) return;
    for (const callback of [...this.#watchers]) callback(what);
  }

  /** Tell Python now what it is told a moment later otherwise: whoever leaves the bench may run a cell that looks at it. */
  flush() {
    this.#tellState();
  }

  dispose() {
    clearTimeout(this.#saveTimer);
    for (const stop of this.#stop) stop();
    this.#due.clear();
    this.#watchers.clear();
    this.#listeners.clear();
  }

  // --------------------------------------------------------------------------------- internal

  #tick() {
    const now = performance.now();
    const waiting = this.running || this.requests.waitingFor() > PULSE_AFTER_MS;
    if (waiting && !this.#pulsing && now - this.#beaten > PULSE_EVERY_MS) {
      this.#pulse ??= now;
      this.#beaten = now;
      this.#pulsing = true;
      void this.#beat();
    }
    this.emit("waiting");
  }

  async #beat() {
    try {
      await this.requests.ask({ type: "pulse" });
      this.#pulse = null;
    } catch (error) {
      // A host that has lost its kernel throws what it is to send: that is no answer.
      if (error instanceof Refused) this.#pulse = null;
    } finally {
      this.#pulsing = false;
    }
  }

  /**
   * Call back after a trait has changed, and all that came with it: a host may set the traits of one message one after the
   * other and tell of each before it sets the next (marimo does), and a picture is more than one trait.
   */
  #onTrait(name: keyof Traits, callback: () => void) {
    const changed = () => {
      this.#heard = performance.now();
      if (this.#due.has(callback)) return;
      this.#due.add(callback);
      queueMicrotask(() => {
        if (this.#due.delete(callback)) callback();
      });
    };
    this.model.on(`change:${name}`, changed);
    this.#stop.push(() => this.model.off(`change:${name}`, changed));
  }

  #moment(): Moment {
    // Which tab is open is no work that anybody wants back.
    return { state: { ...this.#state, panel: null }, doses: this.#dosesSet, selection: this.#bits() };
  }

  #remember(amend = false) {
    const moment = this.#moment();
    if (amend ? this.history.amend(moment) : this.history.add(moment)) this.emit("history");
  }

  #restore(moment: Moment | null) {
    if (!moment) return;
    const { state, doses, selection } = moment;
    const restore = () => {
      if (!same(selection, this.#bits())) this.setSelection(unpackBits(selection, this.n));
      this.patch({ ...state, panel: this.#state.panel });
      if (!sameDoses(doses, this.#doses) || Object.keys(doses).join() !== Object.keys(this.#doses).join())
        this.setDoses(doses, true);
    };
    this.unwatched(() => this.#together(() => this.history.hold(restore)));
    this.emit("history");
  }

  /** Set several things, and only then tell of them: who asks Python about one of them means all. */
  #together(work: () => void) {
    const held = new Set<Key>();
    this.#held = held;
    try {
      work();
    } finally {
      this.#held = null;
      for (const key of held) this.emit(key);
    }
  }

  #bits(): Uint8Array {
    if (this.#packed.of !== this.selection)
      this.#packed = { of: this.selection, bits: packBits(this.selection) };
    return this.#packed.bits;
  }

  /**
   * Tell Python the selection, ahead of whatever is asked about it: a host keeps changed traits back while Python has not
   * answered the last ones, and lets questions pass.
   */
  #tellSelection() {
    const bits = this.#bits();
    if (this.get("_meta")?.static) {
      this.model.set("_selection", new DataView(bits.slice().buffer));
      return;
    }
    this.#unheard++;
    // See #tellState.
    const answered = () =>
      setTimeout(() => {
        this.#unheard--;
        this.#selectionChanged();
      });
    this.requests.ask({ type: "selection", bits: toBase64(bits) }).then(answered, (error) => {
      if (error instanceof Refused) answered();
    });
  }

  #selectionChanged() {
    // What Python has not answered yet is newer than what it says.
    if (this.#unheard > 0 || same(bytes(this.get("_selection")), this.#bits())) return;
    this.selection = unpackBits(this.get("_selection"), this.n) as Uint8Array<ArrayBuffer>;
    this.#remember();
    this.emit("selection");
  }

  /** Tell Python what the hand has set and nothing else: it may have set the rest, unheard of here. */
  #tellState() {
    clearTimeout(this.#saveTimer);
    const change = this.#untold;
    if (Object.keys(change).length === 0) return;
    this.#untold = {};
    this.#unanswered.add(change);
    // A host may set what Python has sent a moment after it hands on the answer that came behind it.
    const answered = (refused: boolean) =>
      setTimeout(() => {
        this.#unanswered.delete(change);
        this.#stateChanged(refused ? change : null);
      });
    this.requests.ask({ type: "state", change }).then(
      () => answered(false),
      (error) => {
        // What could not be sent holds here all the same.
        if (error instanceof Refused) answered(true);
      },
    );
  }

  #stateChanged(refused: Partial<SessionState> | null = null) {
    const last = this.#state;
    const next: SessionState = Object.assign({}, this.get("state"), ...this.#unanswered, this.#untold);
    const changed = !same(next, last);
    if (changed) this.#state = next;
    // The first plane comes of a run, and no plane is nothing to go back to.
    if (!last.layout && next.layout)
      this.history.rewrite((moment) =>
        moment.state.layout ? moment : { ...moment, state: { ...moment.state, layout: next.layout } },
      );
    if (refused) {
      // Nobody can come to what Python refuses, and what lies beyond it is to be reached all the same.
      const { panel, ...change } = refused;
      const held = Object.entries(change);
      const gone = ({ state }: Moment) =>
        held.length > 0 && held.every(([key, value]) => same(state[key as keyof SessionState], value));
      this.history.drop(gone, this.#moment());
      this.emit("history");
    } else if (changed) this.#remember();
    if (changed) this.emit("state");
  }

  #dosesChanged() {
    // While the hand moves a slider, or an answer is on its way, an echo of older doses would pull the slider back.
    if (this.pacer.busy) return;
    this.#doses = this.#dosesSet = this.get("doses") ?? {};
    this.#remember();
    this.emit("doses");
  }

  /** What is known of doses before Python has answered. */
  #foresee(doses: Doses): Estimate | null {
    if (sameDoses(doses, this.get("_perturbation")?.doses)) return null;
    if (!anyChange(doses)) return { perturbation: null, after: null };
    const changed = Object.keys(doses).filter((gene) => doses[gene] !== 1);
    const [gene] = changed;
    // Beyond the doses that have been computed so far nothing can be said yet.
    if (changed.length === 1 && reaches(curveOf(this.#curves, gene), doses[gene]))
      return respondTo(this.#curves, gene, doses);
    const perturbation = this.get("_perturbation");
    // Levels that were set in Python are no doses, and the answer to doses will be without them.
    if (hasLevels(perturbation)) return null;
    const places = this.#exact(anyChange(perturbation?.doses) ? "after" : "before");
    return places && addUp(this.#curves, { doses: perturbation?.doses ?? {}, places, perturbation }, doses);
  }

  #dropEstimate() {
    if (!this.#estimate?.after) return;
    this.#estimate = null;
    this.emit("_perturbation");
    this.emit("_after");
  }

  #readCurves() {
    const places = bytes(this.get("_curve_places"));
    const told = this.get("_curves") ?? [];
    // Both come in one message; where the places are not here yet, their coming is told too.
    const whole = told.every(({ points }) =>
      points.every(({ offset, length }) => offset + length <= places.byteLength),
    );
    this.#curves = (whole ? told : []).flatMap(({ gene, points }) =>
      points.map(({ dose, perturbation, offset, length }) => ({
        gene,
        dose,
        perturbation,
        after: decode(places.subarray(offset, offset + length), {
          dtype: "uint16",
          n: length / 2,
        }) as Uint16Array,
      })),
    );
  }

  async #fetch(key: string, colour: ColourBy) {
    const mine = { fault: "" };
    this.#fetching.set(key, mine);
    const wanted = () => this.#fetching.get(key) === mine;
    try {
      const { content, buffers } = await this.requests.ask({
        type: "column",
        by: colour.by,
        name: colour.name,
      });
      if (!wanted()) return;
      const column = content.column as ColumnReply;
      this.#columns.set(key, { ...column, codes: bytes(buffers[0]) });
      if (this.#columns.size > CACHED_COLUMNS) this.#columns.delete(this.#columns.keys().next().value!);
      this.#fetching.delete(key);
    } catch (error) {
      if (!wanted()) return;
      if (error instanceof Superseded) this.#fetching.delete(key);
      else mine.fault = (error as Error).message;
    }
    this.emit("columns");
  }
}
