/** The tools of the plane. */

import { useStore } from "../hooks.ts";
import { Icon, type IconName } from "../ui/icons.tsx";
import { Menu } from "../ui/Menu.tsx";
import { DENSE_FROM } from "./Plane.tsx";
import type { Mode, Scene, Tool } from "./scene.ts";

const TOOLS: { tool: Tool; icon: IconName; label: string }[] = [
  { tool: "pan", icon: "pan", label: "Move the view (P)" },
  { tool: "lasso", icon: "lasso", label: "Select with a lasso (L)" },
  { tool: "box", icon: "box", label: "Select with a box (B)" },
  { tool: "brush", icon: "brush", label: "Select with a brush (R)" },
];
const MODES: { mode: Mode; sign: string; label: string }[] = [
  { mode: "replace", sign: "New", label: "A new selection" },
  { mode: "add", sign: "+", label: "Add to the selection (Shift)" },
  { mode: "subtract", sign: "−", label: "Take away from the selection (Alt)" },
];

interface Props {
  tool: Tool;
  setTool: (tool: Tool) => void;
  mode: Mode;
  setMode: (mode: Mode) => void;
  scenes: () => Scene[];
  save: (kind: "png" | "svg") => void;
}

export function Toolbar({ tool, setTool, mode, setMode, scenes, save }: Props) {
  const store = useStore("state", "_layouts", "_meta");
  const { labels, second, density } = store.state;
  const layouts = store.get("_layouts") ?? [];
  const dense = density ?? store.n >= DENSE_FROM;
  const each = (work: (scene: Scene) => void) => {
    for (const scene of scenes()) work(scene);
  };
  const beside = () => {
    const other = layouts.find(({ key }) => key !== store.state.layout) ?? layouts[0];
    store.patch({ second: second === null ? (other?.key ?? null) : null });
  };
  return (
    <div class="sl-toolbar" role="toolbar" aria-label="Tools of the embedding">
      <div class="sl-segment" role="group" aria-label="Pointer">
        {TOOLS.map((item) => (
          <button
            type="button"
            key={item.tool}
            class="sl-tool"
            aria-pressed={tool === item.tool}
            aria-label={item.label}
            title={item.label}
            onClick={() => setTool(item.tool)}
          >
            <Icon name={item.icon} />
          </button>
        ))}
      </div>
      {tool !== "pan" && (
        <div class="sl-segment" role="group" aria-label="What a selection does">
          {MODES.map((item) => (
            <button
              type="button"
              key={item.mode}
              class="sl-tool sl-tool-word"
              aria-pressed={mode === item.mode}
              aria-label={item.label}
              title={item.label}
              onClick={() => setMode(item.mode)}
            >
              {item.sign}
            </button>
          ))}
        </div>
      )}
      <Button name="plus" label="Zoom in (+)" onClick={() => each((scene) => scene.zoomBy(1.35))} />
      <Button name="minus" label="Zoom out (−)" onClick={() => each((scene) => scene.zoomBy(1 / 1.35))} />
      <Button name="reset" label="Show all cells (0)" onClick={() => each((scene) => scene.reset())} />
      <Button
        name="labels"
        label="Names of groups on the cells"
        pressed={labels}
        onClick={() => store.patch({ labels: !labels })}
      />
      <Button
        name="density"
        label="Density instead of points"
        pressed={dense}
        onClick={() => store.patch({ density: !dense })}
      />
      {!store.get("_meta").static && (
        <Button
          name="beside"
          label="A second plane beside this one"
          pressed={second !== null}
          disabled={layouts.length === 0}
          onClick={beside}
        />
      )}
      <Menu
        label="Save as a picture"
        items={[
          { label: "PNG, twice the size", onPick: () => save("png") },
          { label: "SVG, to edit", onPick: () => save("svg") },
        ]}
      >
        <Icon name="picture" />
      </Menu>
    </div>
  );
}

interface ButtonProps {
  name: IconName;
  label: string;
  pressed?: boolean;
  disabled?: boolean;
  onClick: () => void;
}

function Button({ name, label, pressed, disabled, onClick }: ButtonProps) {
  return (
    <button
      type="button"
      class="sl-tool"
      aria-label={label}
      title={label}
      aria-pressed={pressed}
      disabled={disabled}
      onClick={onClick}
    >
      <Icon name={name} />
    </button>
  );
}
