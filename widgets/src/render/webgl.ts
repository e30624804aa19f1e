/** WebGL2 backend: two uint16 places, one uint8 code and one uint8 of flags per cell; colours from a 256-entry table. */

import { toScreen, unit } from "./camera.ts";
import { opacity, type PointRenderer, type View } from "./renderer.ts";

const VERTEX = `#version 300 es
in vec2 before;
in vec2 after;
in uint code;
in uint flags;
uniform sampler2D lookup;
uniform vec2 scale;
uniform vec2 offset;
uniform float t;
uniform float size;
uniform float alpha;
uniform uint emphasis;
uniform float fade;
out vec4 colour;
void main() {
  vec4 entry = texelFetch(lookup, ivec2(int(code), 0), 0);
  vec2 place = mix(before, after, t);
  float shown = alpha;
  if (emphasis != 0u && (flags & emphasis) == 0u) shown *= 1.0 - fade;
  colour = vec4(entry.rgb, entry.a * shown);
  gl_Position = entry.a == 0.0 || before.x == 1.0 ? vec4(2.0, 2.0, 2.0, 1.0) : vec4(place * scale + offset, 0.0, 1.0);
  gl_PointSize = size;
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec4 colour;
uniform float size;
out vec4 pixel;
void main() {
  float far = length(gl_PointCoord - 0.5) * size;
  float inside = 1.0 - smoothstep(size * 0.5 - 1.0, size * 0.5, far);
  float a = colour.a * (size > 3.0 ? inside : 1.0);
  if (a <= 0.003) discard;
  pixel = vec4(colour.rgb * a, a);
}`;

/** @throws Error where the browser has no WebGL2 or refuses the shaders; the caller falls back to the raster. */
export function webgl(canvas: HTMLCanvasElement): PointRenderer {
  const gl = canvas.getContext("webgl2", { antialias: false, alpha: true, premultipliedAlpha: true });
  if (!gl) throw new Error("no WebGL2");
  const program = link(gl);
  const at = (name: string) => gl.getAttribLocation(program, name);
  const where = Object.fromEntries(
    ["lookup", "scale", "offset", "t", "size", "alpha", "emphasis", "fade"].map((name) => [
      name,
      gl.getUniformLocation(program, name),
    ]),
  );
  const buffers = { before: gl.createBuffer(), after: gl.createBuffer(), codes: gl.createBuffer() };
  const flagBuffer = gl.createBuffer();
  const orderBuffer = gl.createBuffer();
  const texture = gl.createTexture();
  let n = 0;
  let count = 0;
  let last: Uint32Array | null = null;

  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  const array = gl.createVertexArray();
  gl.bindVertexArray(array);
  for (const [name, buffer] of [
    ["before", buffers.before],
    ["after", buffers.after],
  ] as const) {
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.enableVertexAttribArray(at(name));
    gl.vertexAttribPointer(at(name), 2, gl.UNSIGNED_SHORT, true, 0, 0);
  }
  for (const [name, buffer] of [
    ["code", buffers.codes],
    ["flags", flagBuffer],
  ] as const) {
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.enableVertexAttribArray(at(name));
    gl.vertexAttribIPointer(at(name), 1, gl.UNSIGNED_BYTE, 0, 0);
  }
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, orderBuffer);

  const upload = (buffer: WebGLBuffer | null, data: ArrayBufferView<ArrayBufferLike>) => {
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
  };

  return {
    kind: "webgl2",
    canvas,
    ink: null,
    setPositions(before, after) {
      n = before.length >> 1;
      upload(buffers.before, before);
      upload(buffers.after, after ?? before);
    },
    setCodes: (codes) => upload(buffers.codes, codes),
    setFlags: (flags) => upload(flagBuffer, flags),
    setOrder(order) {
      if (order === last) return;
      last = order;
      count = order.length;
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, orderBuffer);
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, order, gl.DYNAMIC_DRAW);
    },
    setLookup(table) {
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, table);
    },
    draw(view: View) {
      const { camera, frame, ratio } = view;
      const width = Math.max(1, Math.round(frame.width * ratio));
      const height = Math.max(1, Math.round(frame.height * ratio));
      if (canvas.width !== width || canvas.height !== height) {
        canvas.width = width;
        canvas.height = height;
      }
      gl.viewport(0, 0, width, height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      if (n === 0 || count === 0) return;
      const pixels = unit(camera, frame);
      const [x0, y0] = toScreen(camera, frame, 0, 0);
      gl.useProgram(program);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      gl.uniform2f(where.scale, (2 * pixels) / frame.width, (2 * pixels) / frame.height);
      gl.uniform2f(where.offset, (2 * x0) / frame.width - 1, 1 - (2 * y0) / frame.height);
      gl.uniform1f(where.t, view.t);
      gl.uniform1f(where.size, Math.max(1, view.size * ratio));
      gl.uniform1f(where.alpha, opacity(n));
      gl.uniform1ui(where.emphasis, view.emphasis);
      gl.uniform1f(where.fade, view.fade);
      gl.uniform1i(where.lookup, 0);
      gl.drawElements(gl.POINTS, count, gl.UNSIGNED_INT, 0);
    },
    finish() {
      gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
    },
    dispose() {
      for (const buffer of [...Object.values(buffers), flagBuffer, orderBuffer]) gl.deleteBuffer(buffer);
      gl.deleteTexture(texture);
      gl.deleteVertexArray(array);
      gl.deleteProgram(program);
      // Browsers keep few contexts alive; giving this one back at once spares somebody else's.
      gl.getExtension("WEBGL_lose_context")?.loseContext();
    },
  };
}

function link(gl: WebGL2RenderingContext): WebGLProgram {
  const program = gl.createProgram();
  for (const [type, source] of [
    [gl.VERTEX_SHADER, VERTEX],
    [gl.FRAGMENT_SHADER, FRAGMENT],
  ] as const) {
    const shader = gl.createShader(type)!;
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
    gl.deleteShader(shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
    throw new Error(`shaders refused: ${gl.getProgramInfoLog(program) ?? ""}`);
  }
  return program;
}
