/** From before to after: a scrubber, a toggle, and how much of what is seen can be trusted. */

import { useEffect, useRef, useState } from "preact/hooks";
import * as format from "../format.ts";
import { useScope, useStore } from "../hooks.ts";
import { anyChange, canPerturb, changeWords, hasLevels } from "../reducers.ts";
import { Icon } from "../ui/icons.tsx";

const PLAY_MS = 1400;

export function Morph({ moved }: { moved: () => number }) {
  const { prefix } = useScope();
  const store = useStore("_perturbation", "_after", "_after_info", "doses", "t", "state", "_panels", "_meta");
  const [playing, setPlaying] = useState(false);
  const frame = useRef(0);
  const heard = useRef("");
  const shown = store.shown;
  const active = anyChange(store.doses) || (shown && (anyChange(shown.doses) || hasLevels(shown)));

  useEffect(() => () => cancelAnimationFrame(frame.current), []);
  if (!active) {
    // Its place is kept: the plane would move under the hand with the first dose.
    const coming = canPerturb(store.get("_panels"), store.get("_meta"));
    return coming ? (
      <p class="sl-morph sl-muted">Once a dose is set in Perturb, the cells go from before to after here.</p>
    ) : null;
  }

  const play = () => {
    cancelAnimationFrame(frame.current);
    const begin = performance.now();
    setPlaying(true);
    const step = () => {
      const u = (performance.now() - begin) / PLAY_MS;
      store.setT(u < 1 ? (1 - Math.cos(Math.PI * u)) / 2 : 1);
      if (u < 1) frame.current = requestAnimationFrame(step);
      else setPlaying(false);
    };
    step();
  };
  const jump = (t: number) => {
    cancelAnimationFrame(frame.current);
    setPlaying(false);
    store.setT(t);
  };

  const text = changeWords(shown);
  const { computing } = store;
  const about =
    shown && text
      ? ` ${format.plural(shown.moved || moved(), "cell")} changed${
          shown.error_median != null ? ` · projection error ${format.number(shown.error_median)}` : ""
        }`
      : "";
  // While the hand moves, what stands here changes many times a second: it is read once the answer is here.
  if (!computing && !store.pacer.busy)
    heard.current = `${text ? changeWords(shown, ": ") : "unchanged"}.${about}`;
  return (
    <div class="sl-morph">
      <button
        type="button"
        class="sl-tool"
        aria-label="Play from before to after"
        title="Play from before to after"
        disabled={playing || computing}
        onClick={play}
      >
        <Icon name="play" />
      </button>
      <button type="button" class="sl-end" aria-pressed={store.t === 0} onClick={() => jump(0)}>
        Before
      </button>
      <input
        id={`${prefix}-morph`}
        class="sl-range"
        type="range"
        min={0}
        max={1}
        step={0.01}
        value={store.t}
        aria-label="From before to after"
        style={{ "--fill": `${100 * store.t}%` }}
        onInput={(event) => jump(Number(event.currentTarget.value))}
      />
      <button type="button" class="sl-end" aria-pressed={store.t === 1} onClick={() => jump(1)}>
        After
      </button>
      <button
        type="button"
        class="sl-tool"
        aria-label="Arrows from before to after"
        title="Arrows from before to after, averaged over neighbouring cells"
        aria-pressed={store.state.field}
        onClick={() => store.patch({ field: !store.state.field })}
      >
        <Icon name="arrows" />
      </button>
      <p class="sl-heard" role="status">
        {heard.current}
      </p>
      <p class="sl-morph-text" title={text ? `${text}${about}` : undefined}>
        {(text || !computing) && <b>{text || (store.refused ? "No answer" : "Unchanged")}</b>}
        {shown && text && (
          <span class="sl-muted">
            {about}
            {shown.interpolated && !computing && " · between computed doses"}
          </span>
        )}
        {computing && <span class="sl-computing"> computing…</span>}
        {text && store.refused && <span class="sl-muted"> · no answer to the present doses</span>}
      </p>
    </div>
  );
}
