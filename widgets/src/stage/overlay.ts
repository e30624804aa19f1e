/** What lies over the cells: names of groups, paths, trails of moved cells, the lasso, the marked cells. */

import type { Theme } from "../palette.ts";
import { type Camera, type Frame, toScreen } from "../render/camera.ts";
import type { Trajectory } from "../types.ts";
import { displacements } from "./field.ts";
import { BRUSH_PX, type Drawing } from "./pointer.ts";
import type { Scene } from "./scene.ts";
import type { Pen } from "./svgpen.ts";

export type Paths = Pick<Trajectory, "nodes" | "edges" | "paths">;

export interface Marks {
  theme: Theme;
  labels: { text: string; x: number; y: number }[];
  trajectory: Paths | null;
  root: number | null;
  hovered: number;
  /** To which cell keys have gone; -1 = they go to none. */
  cursor: number;
  drawing: Drawing | null;
  /** Arrows instead of trails. */
  field: boolean;
  /** How far along pseudotime is shown, 0..1; null = everything. */
  scrub: number | null;
}

interface Ink {
  ink: string;
  halo: string;
  trail: string;
  accent: string;
  /** Of arrows over cells of any colour: as dark or light as can be, with an edge that covers what is below. */
  arrow: string;
  edge: string;
}

const INK: Record<Theme, Ink> = {
  light: {
    ink: "#1c2430",
    halo: "rgb(255 255 255 / 0.88)",
    trail: "rgb(28 36 48 / 0.3)",
    accent: "#0b62a4",
    arrow: "#0b1017",
    edge: "#ffffff",
  },
  dark: {
    ink: "#f0f3f7",
    halo: "rgb(18 22 28 / 0.85)",
    trail: "rgb(235 240 247 / 0.34)",
    accent: "#7cc4ff",
    arrow: "#ffffff",
    edge: "#0b0e13",
  },
};
const MAX_TRAILS = 4000;

export function paintOverlay(context: Pen, scene: Scene, marks: Marks) {
  const colours = INK[marks.theme];
  const { camera, frame } = scene;
  if (scene.picture) {
    if (scene.movedCount && marks.field) arrows(context, scene, colours);
    else if (scene.t > 0 && scene.movedCount) trails(context, scene, colours.trail);
    if (marks.trajectory) {
      trajectory(context, camera, frame, marks.trajectory, colours);
      if (marks.scrub !== null) heads(context, camera, frame, marks.trajectory, marks.scrub, colours);
    }
    const cells = scene.picture.before.length >> 1;
    const ring = (cell: number, radius: number, width: number) => {
      const [px, py] = toScreen(camera, frame, ...scene.place(cell));
      context.beginPath();
      context.arc(px, py, radius, 0, 2 * Math.PI);
      context.lineWidth = width + 2;
      context.strokeStyle = colours.halo;
      context.stroke();
      context.lineWidth = width;
      context.strokeStyle = colours.accent;
      context.stroke();
    };
    if (marks.root !== null && marks.root < cells) ring(marks.root, 8, 2.5);
    if (marks.hovered >= 0 && marks.hovered < cells) ring(marks.hovered, 6, 1.5);
    if (marks.cursor >= 0 && marks.cursor < cells) {
      const [px, py] = toScreen(camera, frame, ...scene.place(marks.cursor));
      crosshair(context, frame, px, py, colours);
    }
  }
  for (const label of placed(context, camera, frame, marks.labels)) {
    context.font = FONT;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    context.lineWidth = 3.5;
    context.strokeStyle = colours.halo;
    context.strokeText(label.text, label.px, label.py);
    context.fillStyle = colours.ink;
    context.fillText(label.text, label.px, label.py);
  }
  if (marks.drawing) outline(context, marks.drawing, colours.accent);
}

/** Lines through all of the plane that meet at a place, and leave the cell there to be seen. */
function crosshair(context: Pen, frame: Frame, px: number, py: number, { accent, halo }: Ink) {
  const lines = [
    [0, py, px - CROSS_PX, py],
    [px + CROSS_PX, py, frame.width, py],
    [px, 0, px, py - CROSS_PX],
    [px, py + CROSS_PX, px, frame.height],
  ];
  for (const [width, colour] of [
    [3, halo],
    [1, accent],
  ] as const) {
    context.beginPath();
    for (const [x0, y0, x1, y1] of lines) {
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
    }
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.stroke();
  }
}

const CROSS_PX = 9;
const FONT = "600 12px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";

/** Names on the screen; one that would lie over another is moved a line up or down, or left out. */
function placed(context: Pen, camera: Camera, frame: Frame, labels: Marks["labels"]) {
  context.font = FONT;
  const taken: { left: number; right: number; top: number; bottom: number }[] = [];
  const result: { text: string; px: number; py: number }[] = [];
  for (const { text, x, y } of labels) {
    const short = text.length > 26 ? `${text.slice(0, 25)}…` : text;
    const [x0, y0] = toScreen(camera, frame, x, y);
    if (x0 < 0 || x0 > frame.width || y0 < 0 || y0 > frame.height) continue;
    const half = context.measureText(short).width / 2 + 3;
    // A name near an edge moves inwards: cut off, it could be another group's.
    const px = Math.min(Math.max(x0, half), Math.max(half, frame.width - half));
    for (const shift of [0, -15, 15, -30, 30]) {
      const py = y0 + shift;
      const box = { left: px - half, right: px + half, top: py - 8, bottom: py + 8 };
      const free = taken.every(
        (other) =>
          box.right < other.left ||
          box.left > other.right ||
          box.bottom < other.top ||
          box.top > other.bottom,
      );
      if (free) {
        taken.push(box);
        result.push({ text: short, px, py });
        break;
      }
    }
  }
  return result;
}

function trails(context: Pen, scene: Scene, colour: string) {
  const { before, codes, lookup } = scene.picture!;
  const step = Math.max(1, Math.ceil(scene.movedCount / MAX_TRAILS));
  context.beginPath();
  for (let i = 0, seen = 0; i < scene.moved.length; i++) {
    if (!scene.moved[i] || seen++ % step || lookup[4 * codes[i] + 3] === 0) continue;
    context.moveTo(...toScreen(scene.camera, scene.frame, before[2 * i] / 65535, before[2 * i + 1] / 65535));
    context.lineTo(...toScreen(scene.camera, scene.frame, ...scene.place(i)));
  }
  context.lineWidth = 1;
  context.strokeStyle = colour;
  context.stroke();
}

/** What cells near each other do on average, from where they are before. */
function arrows(context: Pen, scene: Scene, colours: (typeof INK)[Theme]) {
  const { camera, frame } = scene;
  const most = Math.max(1, ...scene.field(displacements).map(({ cells }) => cells));
  context.lineCap = "round";
  for (const { x, y, dx, dy, cells } of scene.field(displacements)) {
    const from = toScreen(camera, frame, x, y);
    const to = toScreen(camera, frame, x + dx, y + dy);
    const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
    if (length < 2.5) continue;
    const width = 1.8 + 1.8 * Math.sqrt(cells / most);
    const size = Math.min(13, 6 + length / 5);
    // The line ends inside the head, so that its end does not blunt the point.
    const inside = Math.max(0, length - 0.7 * size) / length;
    const end: [number, number] = [
      from[0] + (to[0] - from[0]) * inside,
      from[1] + (to[1] - from[1]) * inside,
    ];
    for (const [extra, style] of [
      [3.5, colours.edge],
      [0, colours.arrow],
    ] as const) {
      context.beginPath();
      context.moveTo(...from);
      context.lineTo(...end);
      context.lineWidth = width + extra;
      context.strokeStyle = style;
      context.stroke();
      arrow(context, from, to, style, size, extra);
    }
  }
}

/** Where each path is at a point of pseudotime. */
function heads(
  context: Pen,
  camera: Camera,
  frame: Frame,
  { nodes, paths }: Paths,
  scrub: number,
  colours: (typeof INK)[Theme],
) {
  for (const { points } of paths) {
    const stops = [];
    for (let i = 0; i < points.length; i += 2) {
      const node = nodes.find(({ x, y }) => x === points[i] && y === points[i + 1]);
      stops.push({ x: points[i], y: points[i + 1], time: node?.time ?? 0 });
    }
    const next = stops.findIndex(({ time }) => time >= scrub);
    const b = stops[next < 0 ? stops.length - 1 : next];
    const a = stops[Math.max(0, (next < 0 ? stops.length : next) - 1)];
    const u = b.time > a.time ? Math.min(1, Math.max(0, (scrub - a.time) / (b.time - a.time))) : 1;
    const [px, py] = toScreen(camera, frame, a.x + (b.x - a.x) * u, a.y + (b.y - a.y) * u);
    context.beginPath();
    context.arc(px, py, 6.5, 0, 2 * Math.PI);
    context.fillStyle = colours.accent;
    context.fill();
    context.lineWidth = 2;
    context.strokeStyle = colours.halo;
    context.stroke();
  }
}

function trajectory(
  context: Pen,
  camera: Camera,
  frame: Frame,
  { nodes, edges, paths }: Paths,
  colours: (typeof INK)[Theme],
) {
  const at = nodes.map((node) => toScreen(camera, frame, node.x, node.y));
  context.lineCap = "round";
  for (const { from, to, weight } of edges) {
    context.beginPath();
    context.moveTo(...at[from]);
    context.lineTo(...at[to]);
    context.globalAlpha = 0.16 + 0.3 * weight;
    context.lineWidth = 1 + 5 * weight;
    context.strokeStyle = colours.ink;
    context.stroke();
  }
  context.globalAlpha = 1;
  for (const { points } of paths) {
    const line: [number, number][] = [];
    for (let i = 0; i < points.length; i += 2) line.push(toScreen(camera, frame, points[i], points[i + 1]));
    if (line.length < 2) continue;
    for (const [width, style] of [
      [6, colours.halo],
      [2.5, colours.ink],
    ] as const) {
      smooth(context, line);
      context.lineWidth = width;
      context.strokeStyle = style;
      context.stroke();
    }
    arrow(context, line[line.length - 2], line[line.length - 1], colours.ink);
  }
  nodes.forEach((node, index) => {
    context.beginPath();
    context.arc(...at[index], 3 + 4 * node.size, 0, 2 * Math.PI);
    context.fillStyle = colours.halo;
    context.fill();
    context.lineWidth = 1.5;
    context.strokeStyle = colours.ink;
    context.stroke();
    if (!node.parting) return;
    // Where paths part the group has a second ring.
    context.beginPath();
    context.arc(...at[index], 7 + 4 * node.size, 0, 2 * Math.PI);
    context.lineWidth = 1.5;
    context.stroke();
  });
}

/** A curve through all points of a line (Catmull and Rom's). */
function smooth(context: Pen, line: [number, number][]) {
  context.beginPath();
  context.moveTo(...line[0]);
  for (let i = 0; i < line.length - 1; i++) {
    const before = line[Math.max(0, i - 1)];
    const [from, to] = [line[i], line[i + 1]];
    const after = line[Math.min(line.length - 1, i + 2)];
    context.bezierCurveTo(
      from[0] + (to[0] - before[0]) / 6,
      from[1] + (to[1] - before[1]) / 6,
      to[0] - (after[0] - from[0]) / 6,
      to[1] - (after[1] - from[1]) / 6,
      to[0],
      to[1],
    );
  }
}

function arrow(
  context: Pen,
  from: [number, number],
  to: [number, number],
  colour: string,
  size = 11,
  halo = 0,
) {
  const angle = Math.atan2(to[1] - from[1], to[0] - from[0]);
  context.beginPath();
  context.moveTo(...to);
  for (const side of [2.65, -2.65]) {
    context.lineTo(to[0] + size * Math.cos(angle + side), to[1] + size * Math.sin(angle + side));
  }
  context.closePath();
  context.fillStyle = colour;
  context.fill();
  if (halo === 0) return;
  context.lineJoin = "round";
  context.lineWidth = halo;
  context.strokeStyle = colour;
  context.stroke();
}

function outline(context: Pen, { path, tool }: Drawing, accent: string) {
  context.beginPath();
  if (tool === "brush") {
    context.lineJoin = "round";
    context.lineCap = "round";
    context.moveTo(path[0], path[1]);
    for (let i = 2; i < path.length; i += 2) context.lineTo(path[i], path[i + 1]);
    context.lineWidth = 2 * BRUSH_PX;
    context.strokeStyle = accent;
    context.globalAlpha = 0.25;
    context.stroke();
    context.globalAlpha = 1;
    return;
  }
  if (tool === "box") {
    context.rect(path[0], path[1], (path[2] ?? path[0]) - path[0], (path[3] ?? path[1]) - path[1]);
  } else {
    context.moveTo(path[0], path[1]);
    for (let i = 2; i < path.length; i += 2) context.lineTo(path[i], path[i + 1]);
    context.closePath();
  }
  context.fillStyle = accent;
  context.globalAlpha = 0.12;
  context.fill();
  context.globalAlpha = 1;
  context.lineWidth = 1.5;
  context.setLineDash([5, 4]);
  context.strokeStyle = accent;
  context.stroke();
  context.setLineDash([]);
}
