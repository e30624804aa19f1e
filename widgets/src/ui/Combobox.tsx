/** A text field with suggestions, after the ARIA combobox pattern: arrows move, Enter picks, Escape closes. */

import { useEffect, useRef, useState } from "preact/hooks";
import { useScope } from "../hooks.ts";
import { matchParts } from "../reducers.ts";
import { Icon } from "./icons.tsx";

export interface Option {
  value: string;
  label: string;
  group?: string;
  hint?: string;
}

interface Props {
  name: string;
  label: string;
  placeholder: string;
  /** What stands in the field while nobody types; empty for a field that only adds. */
  shown?: string;
  /** Suggestions for what has been typed. */
  suggest: (typed: string) => Option[];
  onPick: (option: Option) => void;
  onOpen?: () => void;
  /** What has been typed now, for suggestions that have to be asked for. */
  onType?: (typed: string) => void;
  /** Whether there are suggestions still to come. */
  waiting?: boolean;
  /** Said where nothing matches. */
  empty: (typed: string) => string;
  disabled?: boolean;
}

export function Combobox({
  name,
  label,
  placeholder,
  shown = "",
  suggest,
  onPick,
  onOpen,
  onType,
  waiting = false,
  empty,
  disabled,
}: Props) {
  const { prefix } = useScope();
  const [typed, setTyped] = useState<string | null>(null);
  const [active, setActive] = useState(0);
  const list = useRef<HTMLUListElement>(null);
  const open = typed !== null;
  const options = open ? suggest(typed) : [];
  const id = `${prefix}-${name}`;

  useEffect(() => {
    list.current?.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  }, [active, open]);

  // Enter before the suggestions are here: the first of them is meant.
  const hasty = useRef(false);

  const close = () => {
    hasty.current = false;
    setTyped(null);
    setActive(0);
  };
  const pick = (option: Option | undefined) => {
    hasty.current = waiting && !!typed?.trim() && !option;
    if (!option) return;
    close();
    onPick(option);
  };
  useEffect(() => {
    if (hasty.current && !waiting) pick(options[active]);
  });
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) return setTyped("");
      const step = event.key === "ArrowDown" ? 1 : -1;
      setActive((active + step + options.length) % Math.max(1, options.length));
    } else if (event.key === "Enter") {
      event.preventDefault();
      pick(options[active]);
    } else if (event.key === "Escape" && open) {
      event.stopPropagation();
      close();
    }
  };

  return (
    <div class="sl-combobox">
      <Icon name="search" />
      <input
        id={id}
        type="text"
        role="combobox"
        autocomplete="off"
        spellcheck={false}
        aria-label={label}
        aria-expanded={open}
        aria-controls={`${id}-list`}
        aria-autocomplete="list"
        aria-activedescendant={open && options[active] ? `${id}-${active}` : undefined}
        placeholder={open && shown ? shown : placeholder}
        value={typed ?? shown}
        disabled={disabled}
        onFocus={(event) => {
          onOpen?.();
          // Coming from nowhere it was given the focus, as what had it is gone; a click opens the list by itself.
          if (event.relatedTarget) setTyped("");
        }}
        onClick={() => {
          if (!open) setTyped("");
        }}
        onBlur={close}
        onInput={(event) => {
          hasty.current = false;
          onType?.(event.currentTarget.value);
          setTyped(event.currentTarget.value);
          setActive(0);
        }}
        onKeyDown={onKeyDown}
      />
      {open && (
        <ul
          ref={list}
          id={`${id}-list`}
          class="sl-options"
          role="listbox"
          aria-label={label}
          // The field keeps the focus while the list is scrolled or clicked.
          onMouseDown={(event) => event.preventDefault()}
        >
          {options.length === 0 && (
            <li class="sl-none" role="option" aria-disabled="true" aria-selected="false">
              {empty(typed)}
            </li>
          )}
          {options.map((option, index) => (
            <OptionRow
              key={`${option.group ?? ""}:${option.value}`}
              id={`${id}-${index}`}
              option={option}
              typed={typed}
              heading={option.group !== options[index - 1]?.group ? option.group : undefined}
              selected={index === active}
              onEnter={() => setActive(index)}
              onPick={() => pick(option)}
            />
          ))}
        </ul>
      )}
    </div>
  );
}

interface RowProps {
  id: string;
  option: Option;
  typed: string;
  heading?: string;
  selected: boolean;
  onEnter: () => void;
  onPick: () => void;
}

function OptionRow({ id, option, typed, heading, selected, onEnter, onPick }: RowProps) {
  const [before, match, after] = matchParts(option.label, typed);
  return (
    <>
      {heading && (
        <li class="sl-group" role="presentation">
          {heading}
        </li>
      )}
      {/* biome-ignore lint/a11y/useKeyWithClickEvents: the field that owns the list takes the keys */}
      <li id={id} role="option" aria-selected={selected} onMouseMove={onEnter} onClick={onPick}>
        <span class="sl-option-label">
          {before}
          {match && <b>{match}</b>}
          {after}
        </span>
        {option.hint && <span class="sl-hint">{option.hint}</span>}
      </li>
    </>
  );
}
