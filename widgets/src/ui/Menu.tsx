/** A button that opens a short list of things to do, after the ARIA menu pattern. */

import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

export interface Item {
  label: string;
  hint?: string;
  disabled?: boolean;
  onPick: () => void;
}

interface Props {
  label: string;
  items: Item[];
  class?: string;
  children: ComponentChildren;
}

export function Menu({ label, items, class: look = "sl-tool", children }: Props) {
  const [open, setOpen] = useState(false);
  const host = useRef<HTMLDivElement>(null);
  const entries = () => [...(host.current?.querySelectorAll<HTMLElement>("[role=menuitem]") ?? [])];
  useLayoutEffect(() => {
    if (open) entries()[0]?.focus();
  }, [open]);
  const close = (back: boolean) => {
    setOpen(false);
    if (back) host.current?.querySelector<HTMLElement>("button")?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (!open) return;
    const at = entries().indexOf(event.target as HTMLElement);
    const n = items.length;
    const places: Record<string, number> = {
      ArrowDown: (at + 1) % n,
      ArrowUp: (at - 1 + n) % n,
      Home: 0,
      End: n - 1,
    };
    if (event.key === "Escape") close(true);
    else if (event.key in places) entries()[places[event.key]]?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: the keys come from the entries inside
    <div
      ref={host}
      class="sl-menu-host"
      onKeyDown={onKeyDown}
      onBlur={(event) => {
        if (!host.current?.contains(event.relatedTarget as Node | null)) setOpen(false);
      }}
    >
      <button
        type="button"
        class={look}
        aria-label={label}
        title={label}
        aria-haspopup="menu"
        aria-expanded={open}
        onClick={() => setOpen(!open)}
      >
        {children}
      </button>
      {open && (
        <div class="sl-menu" role="menu" aria-label={label}>
          {items.map((item) => (
            <button
              type="button"
              role="menuitem"
              key={item.label}
              tabIndex={-1}
              disabled={item.disabled}
              onClick={() => {
                close(true);
                item.onPick();
              }}
            >
              {item.label}
              {item.hint && <kbd>{item.hint}</kbd>}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}
