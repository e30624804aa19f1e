/** A panel that a plugin brings: its own module, in an element of its own. */

import { useEffect, useRef, useState } from "preact/hooks";
import { useScope } from "../hooks.ts";
import { panelSession } from "../session.ts";
import type { PanelInfo } from "../types.ts";

type Render = (given: { model: unknown; session: unknown; el: HTMLElement }) => unknown;

export function Plugin({ panel }: { panel: PanelInfo }) {
  const { store } = useScope();
  const host = useRef<HTMLDivElement>(null);
  const [fault, setFault] = useState<string | null>(null);

  useEffect(() => {
    let cleanup: unknown;
    let gone = false;
    const url = URL.createObjectURL(new Blob([panel.esm ?? ""], { type: "text/javascript" }));
    const { session, dispose } = panelSession(store, panel.id);
    const open = async () => {
      try {
        const module = (await import(/* @vite-ignore */ url)) as {
          render?: Render;
          default?: { render?: Render };
        };
        const render = module.render ?? module.default?.render;
        if (!render) throw new Error("its module exports no render function");
        if (gone || !host.current) return;
        cleanup = await render({ model: store.model, session, el: host.current });
        if (gone && typeof cleanup === "function") cleanup();
      } catch (error) {
        setFault(
          `The panel “${panel.title}” of plugin “${panel.plugin}” failed: ${(error as Error).message}.`,
        );
      } finally {
        URL.revokeObjectURL(url);
      }
    };
    void open();
    return () => {
      gone = true;
      dispose();
      if (typeof cleanup === "function") cleanup();
    };
  }, [store, panel.id, panel.esm]);

  return (
    <div class="sl-panel">
      {panel.css && <style>{panel.css}</style>}
      {fault && <p class="sl-failed">{fault}</p>}
      <div ref={host} class="sl-plugin" />
    </div>
  );
}
