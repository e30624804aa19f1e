/**
 * Writes down what is drawn, as SVG: as much of a canvas' 2D context as the overlay draws with. So names stay text and lines
 * stay lines in a picture for a paper, and one piece of code draws both.
 */

/** What the overlay draws with: a canvas, or this. */
export type Pen = Pick<
  CanvasRenderingContext2D,
  | "arc"
  | "beginPath"
  | "bezierCurveTo"
  | "closePath"
  | "fill"
  | "fillStyle"
  | "fillText"
  | "font"
  | "globalAlpha"
  | "lineCap"
  | "lineJoin"
  | "lineTo"
  | "lineWidth"
  | "measureText"
  | "moveTo"
  | "rect"
  | "setLineDash"
  | "stroke"
  | "strokeStyle"
  | "strokeText"
  | "textAlign"
  | "textBaseline"
>;

export class SvgPen implements Pen {
  fillStyle: Pen["fillStyle"] = "#000";
  strokeStyle: Pen["strokeStyle"] = "#000";
  font = "10px sans-serif";
  globalAlpha = 1;
  lineCap: CanvasLineCap = "butt";
  lineJoin: CanvasLineJoin = "miter";
  lineWidth = 1;
  textAlign: CanvasTextAlign = "start";
  textBaseline: CanvasTextBaseline = "alphabetic";
  readonly #measure: (text: string, font: string) => TextMetrics;
  #path: string[] = [];
  #parts: string[] = [];
  #dash: number[] = [];

  /** @param measure How wide a text is; a canvas knows it. */
  constructor(measure: (text: string, font: string) => TextMetrics) {
    this.#measure = measure;
  }

  /** Everything drawn so far. */
  toString(): string {
    return this.#parts.join("");
  }

  beginPath() {
    this.#path = [];
  }

  moveTo(x: number, y: number) {
    this.#path.push(`M${at(x, y)}`);
  }

  lineTo(x: number, y: number) {
    this.#path.push(`${this.#path.length ? "L" : "M"}${at(x, y)}`);
  }

  bezierCurveTo(x1: number, y1: number, x2: number, y2: number, x: number, y: number) {
    this.#path.push(`C${at(x1, y1)} ${at(x2, y2)} ${at(x, y)}`);
  }

  closePath() {
    this.#path.push("Z");
  }

  rect(x: number, y: number, width: number, height: number) {
    this.#path.push(`M${at(x, y)}h${short(width)}v${short(height)}h${short(-width)}Z`);
  }

  /** A whole circle; parts of one are not drawn by anything here. */
  arc(x: number, y: number, radius: number) {
    const r = short(radius);
    const half = (dx: number) => `a${r} ${r} 0 1 0 ${short(dx)} 0`;
    this.#path.push(`M${at(x + radius, y)}${half(-2 * radius)}${half(2 * radius)}Z`);
  }

  setLineDash(dash: Iterable<number>) {
    this.#dash = [...dash];
  }

  stroke() {
    const dash = this.#dash.length ? ` stroke-dasharray="${this.#dash.join(" ")}"` : "";
    this.#put(
      `fill="none" ${paint("stroke", this.strokeStyle)} stroke-width="${short(this.lineWidth)}" stroke-linecap="${this.lineCap}" stroke-linejoin="${this.lineJoin}"${dash}`,
    );
  }

  fill() {
    this.#put(paint("fill", this.fillStyle));
  }

  measureText(text: string): TextMetrics {
    return this.#measure(text, this.font);
  }

  fillText(text: string, x: number, y: number) {
    this.#write(text, x, y, paint("fill", this.fillStyle));
  }

  strokeText(text: string, x: number, y: number) {
    const line = `stroke-width="${short(this.lineWidth)}" stroke-linejoin="${this.lineJoin}"`;
    this.#write(text, x, y, `fill="none" ${paint("stroke", this.strokeStyle)} ${line}`);
  }

  #put(look: string) {
    if (this.#path.length === 0) return;
    this.#parts.push(`<path d="${this.#path.join("")}" ${look}${this.#alpha()}/>`);
  }

  #write(text: string, x: number, y: number, look: string) {
    const [, weight = "400", size = "10"] = /^(\d+ )?([\d.]+)px/.exec(this.font) ?? [];
    const anchor = this.textAlign === "center" ? "middle" : "start";
    // Not every program knows a baseline in the middle; all know a shift.
    const down = this.textBaseline === "middle" ? ' dy="0.35em"' : "";
    this.#parts.push(
      `<text x="${short(x)}" y="${short(y)}"${down} font-size="${size}" font-weight="${weight.trim()}" text-anchor="${anchor}" ${look}${this.#alpha()}>${escapeXml(text)}</text>`,
    );
  }

  #alpha(): string {
    return this.globalAlpha < 1 ? ` opacity="${short(this.globalAlpha)}"` : "";
  }
}

export function escapeXml(text: string): string {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}

/** A colour as older programs read it too: `rgb(1 2 3 / 0.5)` is new. */
function paint(what: "fill" | "stroke", style: Pen["fillStyle"]): string {
  const found = /^rgb\((\d+) (\d+) (\d+) \/ ([\d.]+)\)$/.exec(String(style));
  if (!found) return `${what}="${escapeXml(String(style))}"`;
  const [, r, g, b, alpha] = found;
  return `${what}="rgb(${r},${g},${b})" ${what}-opacity="${alpha}"`;
}

function short(value: number): string {
  return String(Number(value.toFixed(2)));
}

function at(x: number, y: number): string {
  return `${short(x)} ${short(y)}`;
}
