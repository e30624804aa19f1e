/** The tools of the plane. */

import { useStore } from "../hooks.ts";
import { Icon, type IconName } from "../ui/icons.tsx";
import type { Scene, Tool } from "./scene.ts";

const TOOLS: { tool: Tool; icon: IconName; label: string }[] = [
  { tool: "pan", icon: "pan", label: "Move the view (P)" },
  { tool: "lasso", icon: "lasso", label: "Select with a lasso (L); Shift adds, Alt takes away" },
  { tool: "box", icon: "box", label: "Select with a box (B); Shift adds, Alt takes away" },
];

interface Props {
  tool: Tool;
  setTool: (tool: Tool) => void;
  scene: () => Scene | null;
  save: () => void;
}

export function Toolbar({ tool, setTool, scene, save }: Props) {
  const store = useStore("state");
  const { labels } = store.state;
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
      <button
        type="button"
        class="sl-tool"
        aria-label="Zoom in"
        title="Zoom in (+)"
        onClick={() => scene()?.zoomBy(1.35)}
      >
        <Icon name="plus" />
      </button>
      <button
        type="button"
        class="sl-tool"
        aria-label="Zoom out"
        title="Zoom out (−)"
        onClick={() => scene()?.zoomBy(1 / 1.35)}
      >
        <Icon name="minus" />
      </button>
      <button
        type="button"
        class="sl-tool"
        aria-label="Show all cells"
        title="Show all (0)"
        onClick={() => scene()?.reset()}
      >
        <Icon name="reset" />
      </button>
      <button
        type="button"
        class="sl-tool"
        aria-label="Names of groups on the cells"
        title="Names of groups on the cells"
        aria-pressed={labels}
        onClick={() => store.patch({ labels: !labels })}
      >
        <Icon name="labels" />
      </button>
      <button
        type="button"
        class="sl-tool"
        aria-label="Save as a picture"
        title="Save as a picture (PNG)"
        onClick={save}
      >
        <Icon name="picture" />
      </button>
    </div>
  );
}
