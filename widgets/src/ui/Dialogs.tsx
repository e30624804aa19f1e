/** What lies over the bench: code, methods, a page to save, the keys. One at a time; Escape closes it. */

import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { bytes } from "../codec.ts";
import * as format from "../format.ts";
import { useDialog, useScope } from "../hooks.ts";
import { Superseded } from "../requests.ts";
import { saveText } from "../stage/figure.ts";
import { Icon } from "./icons.tsx";
import { Markdown } from "./Markdown.tsx";

export function Dialogs() {
  const dialog = useDialog();
  if (dialog === null) return null;
  if (dialog === "code") return <Code />;
  if (dialog === "methods") return <Methods />;
  if (dialog === "html") return <Page />;
  if (dialog === "keys") return <Keys />;
  return <Card reference={dialog} />;
}

function Dialog({ title, children }: { title: string; children: ComponentChildren }) {
  const { view, prefix } = useScope();
  const box = useRef<HTMLDivElement>(null);
  // Effects wait for a frame, and who is fast has gone on to something else by then.
  useLayoutEffect(() => {
    const root = box.current!.getRootNode() as Document | ShadowRoot;
    const before = root.activeElement as HTMLElement | null;
    box.current!.focus();
    return () => before?.focus();
  }, []);
  const close = () => view.open(null);
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape") {
      event.preventDefault();
      close();
    }
    if (event.key !== "Tab") return;
    // The focus goes round within the dialog.
    const all = [...box.current!.querySelectorAll<HTMLElement>("button, textarea, input, [tabindex='0']")];
    const [first, last] = [all[0], all[all.length - 1]];
    const root = box.current!.getRootNode() as Document | ShadowRoot;
    const at = root.activeElement;
    if (event.shiftKey && (at === first || at === box.current)) {
      event.preventDefault();
      last?.focus();
    } else if (!event.shiftKey && at === last) {
      event.preventDefault();
      first?.focus();
    }
  };
  return (
    <div
      class="sl-veil"
      onPointerDown={(event) => {
        if (event.target === event.currentTarget) close();
      }}
    >
      <div
        ref={box}
        class="sl-dialog"
        role="dialog"
        aria-modal="true"
        aria-labelledby={`${prefix}-dialog`}
        tabIndex={-1}
        onKeyDown={onKeyDown}
      >
        <header class="sl-dialog-head">
          <h2 id={`${prefix}-dialog`}>{title}</h2>
          <span class="sl-spring" />
          <button type="button" class="sl-quiet" aria-label="Close" title="Close (Escape)" onClick={close}>
            <Icon name="close" />
          </button>
        </header>
        {children}
      </div>
    </div>
  );
}

/** An answer of Python's: while it is on its way, when it is here, and when it cannot be had. */
function useAnswer<T>(content: Record<string, unknown>): { answer: T | null; fault: string | null } {
  const { view } = useScope();
  const [answer, setAnswer] = useState<T | null>(null);
  const [fault, setFault] = useState<string | null>(null);
  useEffect(() => {
    let gone = false;
    view.question<T>(content, `dialog:${content.type}`).then(
      (found) => !gone && setAnswer(found),
      (error: Error) => !gone && !(error instanceof Superseded) && setFault(error.message),
    );
    return () => {
      gone = true;
    };
  }, [view]);
  return { answer, fault };
}

function Waiting({ fault }: { fault: string | null }) {
  return fault ? (
    <p class="sl-failed" role="alert">
      {fault}
    </p>
  ) : (
    <p class="sl-muted sl-computing" role="status">
      One moment…
    </p>
  );
}

function Text({ label, text, rows }: { label: string; text: string; rows: number }) {
  const area = useRef<HTMLTextAreaElement>(null);
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // No clipboard without a secure address: the older way works from a selection.
      area.current!.select();
      document.execCommand("copy");
    }
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  return (
    <>
      <textarea
        ref={area}
        class="sl-text"
        aria-label={label}
        readOnly
        rows={rows}
        value={text}
        spellcheck={false}
      />
      <div class="sl-dialog-foot">
        <span class="sl-muted" aria-live="polite">
          {copied ? "Copied." : ""}
        </span>
        <button type="button" class="sl-button sl-primary" onClick={() => void copy()}>
          Copy
        </button>
      </div>
    </>
  );
}

function Code() {
  const { answer, fault } = useAnswer<{ text: string }>({ type: "code" });
  return (
    <Dialog title="The bench as code">
      <p class="sl-muted">
        Run it on the cells as they were loaded, and what is on the screen comes out again: same model
        version, same doses, same seeds.
      </p>
      {answer ? <Text label="Python" text={answer.text} rows={16} /> : <Waiting fault={fault} />}
    </Dialog>
  );
}

function Methods() {
  const { answer, fault } = useAnswer<{ text: string; bibtex: string }>({ type: "methods" });
  return (
    <Dialog title="Methods">
      {answer ? (
        <>
          <p class="sl-prose">{answer.text}</p>
          <Text label="Methods and BibTeX" text={`${answer.text}\n\n${answer.bibtex}\n`} rows={9} />
        </>
      ) : (
        <Waiting fault={fault} />
      )}
    </Dialog>
  );
}

function Page() {
  const { store, view } = useScope();
  const [state, setState] = useState<"asking" | "making" | string[] | { fault: string }>("asking");
  const [size, setSize] = useState(0);
  const genes = Object.keys(store.doses);
  const make = async () => {
    setState("making");
    try {
      const { content, buffers } = await view.ask({ type: "html", genes }, "html");
      if (content.cancelled) throw new Error("Stopped.");
      const page = bytes(buffers[0]);
      const text = new TextDecoder().decode(page);
      setSize(page.byteLength);
      saveText(text, "bench.html", "text/html");
      setState(content.left_out as string[]);
    } catch (error) {
      if (error instanceof Superseded) return;
      setState({ fault: (error as Error).message });
    }
  };
  return (
    <Dialog title="Save as one HTML file">
      <p>
        The page works with no kernel and no network: cells, colours, legend, selection
        {genes.length > 0 ? `, and the sliders of ${genes.join(", ")}` : ""}.
      </p>
      {genes.length === 0 && (
        <p class="sl-muted">Genes that are on the bench go along with their answers; there are none now.</p>
      )}
      {Array.isArray(state) && (
        <p role="status">
          Saved as bench.html, {format.number(size / 1e6)} MB.
          {state.length > 0 && <span class="sl-muted"> It does not hold: {state.join(", ")}.</span>}
        </p>
      )}
      {typeof state === "object" && !Array.isArray(state) && (
        <p class="sl-failed" role="alert">
          {state.fault}
        </p>
      )}
      <div class="sl-dialog-foot">
        <button
          type="button"
          class="sl-button sl-primary"
          disabled={state === "making"}
          onClick={() => void make()}
        >
          {state === "making" ? "Making it…" : Array.isArray(state) ? "Save again" : "Save"}
        </button>
      </div>
    </Dialog>
  );
}

function Card({ reference }: { reference: string }) {
  const { answer, fault } = useAnswer<{ card: string }>({ type: "card", reference });
  return (
    <Dialog title={reference}>
      {answer ? (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: a text that scrolls must be reachable by key
        <div class="sl-card-text" tabIndex={0}>
          {answer.card.trim() ? <Markdown text={answer.card} /> : <p>This version has no card.</p>}
        </div>
      ) : (
        <Waiting fault={fault} />
      )}
    </Dialog>
  );
}

const KEYS: [string, [string, string][]][] = [
  [
    "Anywhere",
    [
      ["Ctrl Z", "undo"],
      ["Ctrl Shift Z", "redo"],
      ["?", "these keys"],
      ["Tab", "the next thing; tabs and models by arrow keys"],
    ],
  ],
  [
    "On the cells",
    [
      ["← ↑ → ↓", "move the view"],
      ["+ −", "zoom"],
      ["0", "show all cells"],
      ["P L B R", "pointer: pan, lasso, box, brush"],
      ["Shift, Alt", "while drawing: add, take away"],
      ["A, I", "select all that is shown, invert"],
      ["C", "go from cell to cell; again leaves"],
      ["Escape", "leave the picking of a root; clear the selection"],
    ],
  ],
  [
    "From cell to cell",
    [
      ["← ↑ → ↓", "to the next one, which is read out; with Shift farther on"],
      ["Space", "select it, or take it out of the selection; pick it as the root"],
      ["X", "one corner of a box, then the other; Shift adds, Alt takes away"],
      ["Escape", "leave the box, then the cells"],
    ],
  ],
  [
    "On a group of the legend",
    [
      ["Enter", "hide or show it"],
      ["O", "show it alone; again shows all"],
      ["S", "select its cells; Shift adds, Alt takes away"],
    ],
  ],
  [
    "On an end of the colour bar",
    [
      ["← →", "one step less, one more"],
      ["Page ↓ ↑", "a tenth less, a tenth more"],
      ["Home, End", "as far as it goes"],
    ],
  ],
  [
    "On a dose",
    [
      ["← →", "0.05 less, 0.05 more"],
      ["Page ↓ ↑", "0.25 less, 0.25 more"],
      ["Home, End", "knock out, double"],
    ],
  ],
];

function Keys() {
  return (
    <Dialog title="Keys">
      {KEYS.map(([where, keys]) => (
        <section key={where}>
          <h3 class="sl-heading">{where}</h3>
          <dl class="sl-keys">
            {keys.map(([key, what]) => (
              <div key={key}>
                <dt>
                  <kbd>{key}</kbd>
                </dt>
                <dd>{what}</dd>
              </div>
            ))}
          </dl>
        </section>
      ))}
    </Dialog>
  );
}
