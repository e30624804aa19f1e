/**
 * Columns as they come over the wire: raw bytes beside a small descriptor. Bytes arrive as a `DataView` into a larger
 * message, at any offset; nothing here assumes that they start at zero or are aligned.
 */

export type Dtype = "uint8" | "uint16" | "uint32" | "float32";

export interface Descriptor {
  dtype: Dtype;
  /** Number of values. */
  n: number;
  /** Grows with each new content of the column. */
  version: number;
}

type Bytes = DataView | ArrayBuffer | Uint8Array | null | undefined;

/** View of the same bytes, whatever wraps them. */
export function bytes(data: Bytes): Uint8Array {
  if (!data) return new Uint8Array(0);
  if (data instanceof ArrayBuffer) return new Uint8Array(data);
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

const SIZES: Record<Dtype, number> = { uint8: 1, uint16: 2, uint32: 4, float32: 4 };

/**
 * The values of a column. Copies only where the bytes are not aligned to the type.
 *
 * @throws RangeError where the bytes do not hold as many values as the descriptor says.
 */
export function decode(data: Bytes, { dtype, n }: Pick<Descriptor, "dtype" | "n">) {
  const size = SIZES[dtype];
  let raw = bytes(data);
  if (raw.byteLength !== n * size) {
    throw new RangeError(`a column of ${n} ${dtype} needs ${n * size} bytes and has ${raw.byteLength}`);
  }
  if (raw.byteOffset % size !== 0) raw = raw.slice();
  switch (dtype) {
    case "uint8":
      return raw;
    case "uint16":
      return new Uint16Array(raw.buffer, raw.byteOffset, n);
    case "uint32":
      return new Uint32Array(raw.buffer, raw.byteOffset, n);
    case "float32":
      return new Float32Array(raw.buffer, raw.byteOffset, n);
  }
}

/** A selection as one bit per cell, lowest bit first, as numpy's `packbits(bitorder="little")`. */
export function packBits(mask: Uint8Array): Uint8Array {
  const packed = new Uint8Array((mask.length + 7) >> 3);
  for (let i = 0; i < mask.length; i++) if (mask[i]) packed[i >> 3] |= 1 << (i & 7);
  return packed;
}

/** One byte per cell, 1 = selected. Bits that are missing are 0. */
export function unpackBits(data: Bytes, n: number): Uint8Array {
  const packed = bytes(data);
  const mask = new Uint8Array(n);
  const end = Math.min(n, packed.length * 8);
  for (let i = 0; i < end; i++) mask[i] = (packed[i >> 3] >> (i & 7)) & 1;
  return mask;
}

/** Bytes as a base64 text. */
export function toBase64(data: Uint8Array): string {
  const parts: string[] = [];
  // All at once would be more arguments than a call may have.
  for (let at = 0; at < data.length; at += 0x8000)
    parts.push(String.fromCharCode(...data.subarray(at, at + 0x8000)));
  return btoa(parts.join(""));
}

/** What stands in a base64 text, inflated where `deflated`. Used by the page that is exported. */
export async function fromBase64(text: string, deflated: boolean): Promise<Uint8Array> {
  const raw = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  if (!deflated) return raw;
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
