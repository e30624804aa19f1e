/**
 * Where the plane stands on the screen. Positions are in a unit square (y up); `extent` is the part of it that holds
 * cells. The camera is the point in the middle of the canvas and a zoom, 1 = everything fits.
 */

export interface Camera {
  x: number;
  y: number;
  zoom: number;
}

export interface Frame {
  /** CSS pixels. */
  width: number;
  height: number;
  extent: readonly [number, number];
}

const PADDING = 28;
const ZOOM_MIN = 0.5;
const ZOOM_MAX = 60;

export function home(extent: readonly [number, number]): Camera {
  return { x: extent[0] / 2, y: extent[1] / 2, zoom: 1 };
}

/** Pixels per unit. */
export function unit(camera: Camera, { width, height, extent }: Frame): number {
  const across = Math.max(1, width - 2 * PADDING) / Math.max(1e-9, extent[0]);
  const up = Math.max(1, height - 2 * PADDING) / Math.max(1e-9, extent[1]);
  return Math.min(across, up) * camera.zoom;
}

export function toScreen(camera: Camera, frame: Frame, x: number, y: number): [number, number] {
  const scale = unit(camera, frame);
  return [frame.width / 2 + (x - camera.x) * scale, frame.height / 2 - (y - camera.y) * scale];
}

export function toPlane(camera: Camera, frame: Frame, px: number, py: number): [number, number] {
  const scale = unit(camera, frame);
  return [camera.x + (px - frame.width / 2) / scale, camera.y - (py - frame.height / 2) / scale];
}

export function pan(camera: Camera, frame: Frame, dx: number, dy: number): Camera {
  const scale = unit(camera, frame);
  return hold({ ...camera, x: camera.x - dx / scale, y: camera.y + dy / scale }, frame.extent);
}

/** Zoom about a place on the screen, which stays where it is. */
export function zoomAt(camera: Camera, frame: Frame, factor: number, px: number, py: number): Camera {
  const zoom = Math.min(ZOOM_MAX, Math.max(ZOOM_MIN, camera.zoom * factor));
  const [x, y] = toPlane(camera, frame, px, py);
  const next = { ...camera, zoom };
  const scale = unit(next, frame);
  next.x = x - (px - frame.width / 2) / scale;
  next.y = y + (py - frame.height / 2) / scale;
  return hold(next, frame.extent);
}

/** Keep the middle of the canvas over the cells, so that nobody gets lost in empty space. */
function hold(camera: Camera, extent: readonly [number, number]): Camera {
  return {
    ...camera,
    x: Math.min(extent[0], Math.max(0, camera.x)),
    y: Math.min(extent[1], Math.max(0, camera.y)),
  };
}
