/**
 * Colours. Categories begin with Okabe and Ito's eight, which people with any colour vision can tell apart; more
 * categories add Paul Tol's muted set, then shades. Continuous scales change steadily in lightness.
 */

export type Theme = "light" | "dark";
type Rgb = readonly [number, number, number];

const CATEGORIES: Record<Theme, readonly string[]> = {
  light: [
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#b8a800",
    "#4d4d4d",
    "#332288",
    "#882255",
    "#44aa99",
    "#999933",
    "#aa4499",
    "#117733",
    "#88ccee",
    "#cc6677",
  ],
  dark: [
    "#3d9fe0",
    "#f0ae22",
    "#1fbf90",
    "#f07a2e",
    "#dd94bd",
    "#7cc8f4",
    "#f0e442",
    "#c8c8c8",
    "#8d7fe0",
    "#c95a92",
    "#5fc7b6",
    "#bdbd58",
    "#cb6fbb",
    "#4aa865",
    "#b3ddf2",
    "#e08a98",
  ],
};

const SCALES = {
  /** Amounts: nearly the background where there is little, strong where there is much. */
  amount: {
    light: ["#e3e6ea", "#c5d3e2", "#8fb8d8", "#4d8fc4", "#2a61a6", "#2b2f78"],
    dark: ["#343a45", "#3a5273", "#3f7ca6", "#52aab6", "#97d4a4", "#f6f2a2"],
  },
  /** Order in time: viridis, which both backgrounds carry. */
  order: {
    light: ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#d8d21a"],
    dark: ["#5c2a7e", "#4a5aa0", "#2f86a0", "#28b48c", "#84d957", "#fde725"],
  },
  /** How far something moved, or how wrong a place is. */
  change: {
    light: ["#e3e6ea", "#f2d3a4", "#ecaa55", "#d8752b", "#a8431b", "#5f1f0d"],
    dark: ["#343a45", "#5e4631", "#9a5d2a", "#d87d2b", "#f4b154", "#fde9b0"],
  },
} as const;

export type ScaleName = keyof typeof SCALES;

const MISSING: Record<Theme, string> = { light: "#c9ccd1", dark: "#4a505b" };

/** Code of a value that is not there. */
export const NAN_CODE = 255;
/** Highest code of a quantised value. */
export const MAX_CODE = 254;

function rgb(hex: string): Rgb {
  const value = Number.parseInt(hex.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

const mix = (a: Rgb, b: Rgb, t: number): Rgb => [
  Math.round(a[0] + (b[0] - a[0]) * t),
  Math.round(a[1] + (b[1] - a[1]) * t),
  Math.round(a[2] + (b[2] - a[2]) * t),
];

/** Colour of the n-th category; beyond the named ones they come again, each round nearer to the middle grey. */
export function categoryColour(code: number, theme: Theme): Rgb {
  const colours = CATEGORIES[theme];
  const round = Math.floor(code / colours.length);
  return mix(
    rgb(colours[code % colours.length]),
    theme === "light" ? [40, 40, 40] : [235, 235, 235],
    1 - 0.72 ** round,
  );
}

/** Colour at `t` in 0..1 of a continuous scale. */
export function scaleColour(name: ScaleName, t: number, theme: Theme): Rgb {
  const stops = SCALES[name][theme];
  const place = Math.min(1, Math.max(0, t)) * (stops.length - 1);
  const index = Math.min(stops.length - 2, Math.floor(place));
  return mix(rgb(stops[index]), rgb(stops[index + 1]), place - index);
}

export function css([r, g, b]: Rgb, alpha = 1): string {
  return alpha === 1 ? `rgb(${r} ${g} ${b})` : `rgb(${r} ${g} ${b} / ${alpha})`;
}

/** CSS gradient of a continuous scale, from left to right. */
export function gradient(name: ScaleName, theme: Theme): string {
  return `linear-gradient(to right, ${SCALES[name][theme].join(", ")})`;
}

/** 256 RGBA colours, one per code. Hidden codes are transparent. */
export function lookup(colouring: Colouring, hidden: Uint8Array | null, theme: Theme): Uint8Array {
  const table = new Uint8Array(256 * 4);
  for (let code = 0; code < 256; code++) {
    let colour: Rgb;
    if (colouring.kind === "plain") colour = rgb(theme === "light" ? "#6b7684" : "#97a1af");
    else if (code === NAN_CODE || code === colouring.other) colour = rgb(MISSING[theme]);
    else if (colouring.kind === "category") colour = categoryColour(code, theme);
    else colour = scaleColour(colouring.scale, code / MAX_CODE, theme);
    table.set(colour, 4 * code);
    table[4 * code + 3] = hidden?.[code] ? 0 : 255;
  }
  return table;
}

export interface Colouring {
  kind: "plain" | "category" | "number";
  scale: ScaleName;
  /** Code of "all other categories", where there are too many to tell apart. */
  other?: number | null;
}
