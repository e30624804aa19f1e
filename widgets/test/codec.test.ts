import { describe, expect, it } from "vitest";
import { bytes, decode, fromBase64, packBits, toBase64, unpackBits } from "../src/codec.ts";

/** Bytes as they arrive: a view into a larger message, at an offset. */
function inMessage(content: ArrayBufferView, offset: number): DataView {
  const raw = new Uint8Array(content.buffer, content.byteOffset, content.byteLength);
  const message = new Uint8Array(offset + raw.length + 5).fill(0xab);
  message.set(raw, offset);
  return new DataView(message.buffer, offset, raw.length);
}

describe("decode", () => {
  const places = Uint16Array.of(0, 1, 256, 65535);

  it.each([0, 1, 2, 3, 7])("reads uint16 that begin %i bytes into a message", (offset) => {
    expect(Array.from(decode(inMessage(places, offset), { dtype: "uint16", n: 4 }))).toEqual([
      0, 1, 256, 65535,
    ]);
  });

  it("reads float32 and uint32 at an odd offset", () => {
    const floats = Float32Array.of(-1.5, Number.NaN, 3);
    expect(Array.from(decode(inMessage(floats, 3), { dtype: "float32", n: 3 }))).toEqual([
      -1.5,
      Number.NaN,
      3,
    ]);
    const wide = Uint32Array.of(7, 4_000_000_000);
    expect(Array.from(decode(inMessage(wide, 1), { dtype: "uint32", n: 2 }))).toEqual([7, 4_000_000_000]);
  });

  it("shares memory where the bytes are aligned, and copies only where they are not", () => {
    const aligned = inMessage(places, 4);
    expect(decode(aligned, { dtype: "uint16", n: 4 }).buffer).toBe(aligned.buffer);
    const odd = inMessage(places, 5);
    expect(decode(odd, { dtype: "uint16", n: 4 }).buffer).not.toBe(odd.buffer);
  });

  it("refuses bytes that are not as many as the descriptor says", () => {
    expect(() => decode(inMessage(places, 0), { dtype: "uint16", n: 5 })).toThrow("needs 10 bytes and has 8");
  });

  it("takes nothing for an empty column", () => {
    expect(decode(null, { dtype: "uint16", n: 0 })).toHaveLength(0);
    expect(bytes(undefined)).toHaveLength(0);
  });
});

describe("selection bits", () => {
  it.each([0, 1, 7, 8, 9, 700])("come back as they were for %i cells", (n) => {
    const mask = Uint8Array.from({ length: n }, (_, i) => (i % 3 === 0 ? 1 : 0));
    const packed = packBits(mask);
    expect(packed).toHaveLength(Math.ceil(n / 8));
    expect(unpackBits(packed, n)).toEqual(mask);
  });

  it("are in numpy's little order: cell 0 is the lowest bit", () => {
    expect(Array.from(packBits(Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, 1)))).toEqual([1, 1]);
  });

  it("that are missing count as not selected", () => {
    expect(Array.from(unpackBits(Uint8Array.of(255), 10))).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
  });
});

describe("an exported page's bytes", () => {
  const base64 = (content: Uint8Array) => btoa(String.fromCharCode(...content));

  it("come back inflated", async () => {
    const content = Uint8Array.from({ length: 5000 }, (_, i) => i % 251);
    const stream = new Blob([content]).stream().pipeThrough(new CompressionStream("deflate"));
    const packed = new Uint8Array(await new Response(stream).arrayBuffer());
    expect(packed.length).toBeLessThan(content.length);
    expect(await fromBase64(base64(packed), true)).toEqual(content);
  });

  it("come back as they are where they were not deflated", async () => {
    expect(await fromBase64(base64(Uint8Array.of(1, 2, 255)), false)).toEqual(Uint8Array.of(1, 2, 255));
  });

  it("is what many bytes become, whatever they are", async () => {
    const many = Uint8Array.from({ length: 70_001 }, (_, i) => (i * 7919) % 256);
    expect(await fromBase64(toBase64(many), false)).toEqual(many);
    expect(toBase64(new Uint8Array(0))).toBe("");
  });
});
