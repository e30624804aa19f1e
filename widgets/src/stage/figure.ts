/**
 * The picture for a paper: planes, names and legend as one SVG, of which the PNG is made too. Up to a number of cells each
 * is a vector; beyond it the cells are one image inside, and the words stay words.
 */

import * as format from "../format.ts";
import { categoryColour, css, MAX_CODE, NAN_CODE, scaleColour, type Theme } from "../palette.ts";
import { toScreen } from "../render/camera.ts";
import { MISSING, opacity, pointSize } from "../render/renderer.ts";
import type { Column } from "../types.ts";
import { MISSING_LABEL } from "./Legend.tsx";
import { paintOverlay } from "./overlay.ts";
import type { PlaneHandle } from "./Plane.tsx";
import { escapeXml, SvgPen } from "./svgpen.ts";

const VECTORS = 30_000;
/** Cells of one colour are one path; layers keep large groups from hiding small ones. */
const LAYERS = 16;
const LEGEND = 190;
const LINE = 19;
const MOST_COLUMNS = 4;
const TOP = 30;
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";

export interface Ink {
  background: string;
  ink: string;
  muted: string;
  missing: string;
}

export function figure(
  shots: (PlaneHandle & { title: string })[],
  column: Column | null,
  hidden: Uint8Array | null,
  theme: Theme,
  ink: Ink,
): string {
  let left = 0;
  const parts: string[] = [];
  const height = Math.max(...shots.map(({ scene }) => scene.frame.height)) + TOP;
  for (const shot of shots) {
    const { width } = shot.scene.frame;
    parts.push(
      `<g transform="translate(${left} ${TOP})">`,
      `<text x="14" y="-10" font-size="13" font-weight="600" fill="${ink.ink}">${escapeXml(shot.title)}</text>`,
      cells(shot),
      // Inside an <svg> of its own, which cuts off what lies beyond the plane.
      `<svg width="${width}" height="${shot.scene.frame.height}">${overlay(shot)}</svg>`,
      "</g>",
    );
    left += width;
  }
  const legend = column ? legendOf(column, hidden, theme, ink, left + 8, TOP + 10, height) : null;
  const width = left + (legend ? legend.width : 0);
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="${FONT}"><rect width="100%" height="100%" fill="${ink.background}"/>${parts.join("")}${legend?.svg ?? ""}</svg>`;
}

/** Names, paths and arrows as text and lines; what the hand is doing at this moment is left away. */
function overlay({ scene, marks }: PlaneHandle): string {
  const measure = document.createElement("canvas").getContext("2d")!;
  const pen = new SvgPen((text, font) => {
    measure.font = font;
    return measure.measureText(text);
  });
  paintOverlay(pen, scene, { ...marks, hovered: -1, cursor: -1, drawing: null });
  return pen.toString();
}

function cells({ scene }: PlaneHandle): string {
  const { codes, lookup } = scene.picture!;
  const places = scene.places();
  const n = codes.length;
  const { camera, frame } = scene;
  if (n > VECTORS || scene.picture!.dense) {
    return `<image href="${scene.pointsUrl()}" width="${frame.width}" height="${frame.height}"/>`;
  }
  const layers: Map<string, string[]>[] = Array.from({ length: LAYERS }, () => new Map());
  scene.order().forEach((i, rank) => {
    const entry = 4 * codes[i];
    if (lookup[entry + 3] === 0 || Number.isNaN(places[2 * i]) || scene.picture!.before[2 * i] === MISSING)
      return;
    const [x, y] = toScreen(camera, frame, places[2 * i], places[2 * i + 1]);
    if (x < 0 || y < 0 || x > frame.width || y > frame.height) return;
    const faded = scene.faded(i) ? 0.3 : 1;
    const key = `rgb(${lookup[entry]},${lookup[entry + 1]},${lookup[entry + 2]})|${faded}`;
    const layer = layers[Math.floor((rank / n) * LAYERS)];
    const path = layer.get(key);
    const point = `M${x.toFixed(1)} ${y.toFixed(1)}h0`;
    if (path) path.push(point);
    else layer.set(key, [point]);
  });
  const size = pointSize(n, camera, frame).toFixed(1);
  return layers
    .flatMap((layer) =>
      [...layer].map(([key, points]) => {
        const [colour, faded] = key.split("|");
        return `<path d="${points.join("")}" stroke="${colour}" stroke-opacity="${opacity(n) * Number(faded)}" stroke-width="${size}" stroke-linecap="round" fill="none"/>`;
      }),
    )
    .join("");
}

function legendOf(
  column: Column,
  hidden: Uint8Array | null,
  theme: Theme,
  ink: Ink,
  x: number,
  y: number,
  height: number,
): { svg: string; width: number } {
  let columns = 1;
  const rows = [
    `<text x="${x}" y="${y}" font-size="13" font-weight="600" fill="${ink.ink}">${escapeXml(column.title)}</text>`,
  ];
  if (column.kind === "category") {
    const { shown, more, perColumn } = legendRows(column, hidden, height - y - 28);
    shown.forEach(({ label, code }, i) => {
      const [left, line] = [x + LEGEND * Math.floor(i / perColumn), y + 20 + LINE * (i % perColumn)];
      const fill =
        code === column.other || code === NAN_CODE ? ink.missing : css(categoryColour(code, theme));
      const short = label.length > 26 ? `${label.slice(0, 25)}…` : label;
      rows.push(
        `<circle cx="${left + 5}" cy="${line - 4}" r="5" fill="${fill}"/>`,
        `<text x="${left + 16}" y="${line}" font-size="12" fill="${ink.ink}">${escapeXml(short)}</text>`,
      );
    });
    columns = Math.max(1, Math.ceil(shown.length / perColumn));
    if (more > 0) {
      const words = `and ${format.plural(more, "more group")}`;
      rows.push(
        `<text x="${x}" y="${y + 20 + LINE * perColumn}" font-size="11" fill="${ink.muted}">${words}</text>`,
      );
    }
  } else {
    for (let i = 0; i < 60; i++) {
      rows.push(
        `<rect x="${x + 2.5 * i}" y="${y + 10}" width="2.8" height="10" fill="${css(scaleColour(column.scale ?? "amount", i / 59, theme))}"/>`,
      );
    }
    rows.push(
      `<text x="${x}" y="${y + 34}" font-size="11" fill="${ink.muted}">${format.number(column.min)}</text>`,
      `<text x="${x + 150}" y="${y + 34}" font-size="11" text-anchor="end" fill="${ink.muted}">${format.number(column.max)}</text>`,
    );
    const only = shownValues(column, hidden);
    if (only) {
      rows.push(
        `<text x="${x}" y="${y + 70}" font-size="11" fill="${ink.muted}">cells from ${only[0]} to ${only[1]}</text>`,
      );
    }
    if (column.unit)
      rows.push(
        `<text x="${x}" y="${y + 52}" font-size="11" fill="${ink.muted}">${escapeXml(column.unit)}</text>`,
      );
  }
  return { svg: rows.join(""), width: LEGEND * columns };
}

/** The least and the greatest value that a picture shows, where it does not show all. */
export function shownValues(column: Column, hidden: Uint8Array | null): [string, string] | null {
  if (!hidden) return null;
  const codes = Array.from({ length: MAX_CODE + 1 }, (_, code) => code).filter((code) => !hidden[code]);
  const { min = 0, max = 0 } = column;
  const words = (code = 0) => format.number(min + ((max - min) * code) / MAX_CODE);
  return [words(codes[0]), words(codes.at(-1))];
}

/** Groups that are not hidden, in as many columns as they need up to a few; what finds no room is counted. */
export function legendRows(column: Column, hidden: Uint8Array | null, height: number) {
  const all = (column.labels ?? []).map((label, code) => ({ label, code }));
  if (column.missing > 0) all.push({ label: MISSING_LABEL, code: NAN_CODE });
  const rows = all.filter(({ code }) => !hidden?.[code]);
  const perColumn = Math.max(1, Math.floor(height / LINE));
  const shown = rows.slice(0, perColumn * MOST_COLUMNS);
  return { shown, more: rows.length - shown.length, perColumn };
}

export function saveText(text: string, name: string, type: string) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  download(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Draw an SVG at twice its size and hand it over as PNG. */
export async function savePicture(svg: string, name: string) {
  const url = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  try {
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = 2 * image.naturalWidth;
    canvas.height = 2 * image.naturalHeight;
    canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
    download(canvas.toDataURL("image/png"), name);
  } finally {
    URL.revokeObjectURL(url);
  }
}

function download(href: string, name: string) {
  const link = document.createElement("a");
  link.download = name;
  link.href = href;
  link.click();
}
