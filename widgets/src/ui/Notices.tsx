/** What went wrong, in words, until it is dismissed. */

import { useStore } from "../hooks.ts";
import { Icon } from "./icons.tsx";

export function Notices() {
  const store = useStore("_errors");
  const faults = (store.get("_errors") ?? []).filter(({ id }) => !store.dismissed.has(id));
  return (
    <div class="sl-notices" role="alert" aria-live="assertive">
      {faults.map((fault) => (
        <div class="sl-notice" key={fault.id}>
          <span class="sl-notice-mark" aria-hidden="true">
            !
          </span>
          <p>{fault.text}</p>
          <button
            type="button"
            class="sl-quiet"
            aria-label="Dismiss this message"
            title="Dismiss"
            onClick={() => store.dismiss(fault.id)}
          >
            <Icon name="close" />
          </button>
        </div>
      ))}
    </div>
  );
}
