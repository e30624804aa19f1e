/** A model's card: headings, paragraphs, lists, tables, code. Whatever else stands in it is shown as text. */

import type { ComponentChildren } from "preact";

export function Markdown({ text }: { text: string }) {
  return <>{blocks(text).map((block, index) => draw(block, index))}</>;
}

export type Block =
  | { kind: "heading"; level: number; text: string }
  | { kind: "text"; text: string }
  | { kind: "list"; items: string[] }
  | { kind: "code"; text: string }
  | { kind: "table"; rows: string[][] };

export function blocks(text: string): Block[] {
  const found: Block[] = [];
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  let start = 0;
  // What stands between two rules at the top is for machines.
  if (lines[0] === "---") start = lines.indexOf("---", 1) + 1;
  for (let i = start; i < lines.length; ) {
    const line = lines[i];
    const heading = /^(#{1,6})\s+(.*)$/.exec(line);
    const take = (fits: (other: string) => boolean) => {
      const from = i;
      while (i < lines.length && fits(lines[i])) i++;
      return lines.slice(from, i);
    };
    if (!line.trim()) i++;
    else if (heading) {
      found.push({ kind: "heading", level: heading[1].length, text: heading[2] });
      i++;
    } else if (line.startsWith("```")) {
      i++;
      found.push({ kind: "code", text: take((other) => !other.startsWith("```")).join("\n") });
      i++;
    } else if (line.startsWith("|")) {
      const rows = take((other) => other.startsWith("|"))
        .filter((row) => !/^\|[\s:|-]+\|?$/.test(row))
        .map((row) =>
          row
            .replace(/^\||\|\s*$/g, "")
            .split("|")
            .map((cell) => cell.trim()),
        );
      found.push({ kind: "table", rows });
    } else if (/^\s*[-*]\s+/.test(line)) {
      const items: string[] = [];
      for (const item of take((other) => other.trim() !== "" && !/^#|^\|/.test(other))) {
        if (/^\s*[-*]\s+/.test(item)) items.push(item.replace(/^\s*[-*]\s+/, ""));
        else items[items.length - 1] += ` ${item.trim()}`;
      }
      found.push({ kind: "list", items });
    } else {
      const part = take((other) => other.trim() !== "" && !/^(#|\||```|\s*[-*]\s)/.test(other));
      // A line that looks like a beginning of something but is none is text all the same.
      found.push({ kind: "text", text: part.length ? part.join(" ") : lines[i++] });
    }
  }
  return found;
}

function draw(block: Block, key: number) {
  switch (block.kind) {
    case "heading":
      return block.level === 1 ? (
        <h3 key={key} class="sl-card-title">
          {inline(block.text)}
        </h3>
      ) : (
        <h4 key={key} class="sl-heading">
          {inline(block.text)}
        </h4>
      );
    case "list":
      return (
        <ul key={key} class="sl-bullets">
          {block.items.map((item, at) => (
            <li key={at}>{inline(item)}</li>
          ))}
        </ul>
      );
    case "code":
      return <pre key={key}>{block.text}</pre>;
    case "table":
      return (
        <div key={key} class="sl-wide-table">
          <table>
            <thead>
              <tr>
                {(block.rows[0] ?? []).map((cell, at) => (
                  <th key={at} scope="col">
                    {inline(cell)}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {block.rows.slice(1).map((row, at) => (
                <tr key={at}>
                  {row.map((cell, column) => (
                    <td key={column}>{inline(cell)}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      );
    default:
      return <p key={key}>{inline(block.text)}</p>;
  }
}

/** Bold, code, and the words of a link without its address. */
function inline(text: string): ComponentChildren[] {
  return text
    .replace(/\[([^\]]+)\]\([^)]*\)/g, "$1")
    .split(/(\*\*[^*]+\*\*|`[^`]+`)/)
    .map((part, index) =>
      part.startsWith("**") && part.length > 4 ? (
        <b key={index}>{part.slice(2, -2)}</b>
      ) : part.startsWith("`") && part.length > 2 ? (
        <code key={index}>{part.slice(1, -1)}</code>
      ) : (
        part
      ),
    );
}
