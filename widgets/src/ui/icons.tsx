/** The bench's icons, drawn on a 16 × 16 grid in the text's colour. */

const PATHS = {
  pan: "M8 1.5v13M1.5 8h13M8 1.5 6 3.5M8 1.5l2 2M8 14.5l-2-2M8 14.5l2-2M1.5 8l2-2M1.5 8l2 2M14.5 8l-2-2M14.5 8l-2 2",
  lasso:
    "M8 2.5c3.6 0 6.3 1.7 6.3 4.1S11.6 10.7 8 10.7 1.7 9 1.7 6.6 4.4 2.5 8 2.5ZM4.6 9.9c-1 .5-1.3 1.5-.7 2.2.7.8 1.7.3 1.9-.5M5.7 11.5c.2 1.3-.3 2.2-1.3 2.6",
  box: "M2.5 4.5v-2h2M7 2.5h2M11.5 2.5h2v2M13.5 7v2M13.5 11.5v2h-2M9 13.5H7M4.5 13.5h-2v-2M2.5 9V7",
  brush:
    "M9.5 3.5 12.5 6.5M13.8 2.2a1.6 1.6 0 0 1 0 2.3L8.2 10.1 5.9 7.8l5.6-5.6a1.6 1.6 0 0 1 2.3 0ZM5.2 8.6c-1.5.2-2.2 1.2-2.3 2.7 0 1-.5 1.6-1.4 2 2.8.9 5.6.2 5.8-2.4",
  density:
    "M8 2.2a5.8 5.8 0 1 0 0 11.6 5.8 5.8 0 0 0 0-11.6ZM8 5.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6ZM8 7.7a.3.3 0 1 0 0 .6.3.3 0 0 0 0-.6Z",
  beside: "M2 3h12v10H2zM8 3v10M4.2 8.5h.01M5.6 6.6h.01M10.4 8.5h.01M11.8 6.6h.01",
  arrows: "M2.5 12.5 6 9M6 11.5V9H3.5M8 8l5.5-5.5M13.5 5.5v-3h-3",
  undo: "M5.5 2.5 2.5 5.5l3 3M2.5 5.5h6.8a3.9 3.9 0 0 1 0 7.8H6",
  redo: "M10.5 2.5l3 3-3 3M13.5 5.5H6.7a3.9 3.9 0 0 0 0 7.8H10",
  code: "M5.5 4.5 2 8l3.5 3.5M10.5 4.5 14 8l-3.5 3.5",
  quote: "M3 12V8.5C3 6 4.2 4.6 6.5 4M9.5 12V8.5c0-2.5 1.2-3.9 3.5-4.5M3 8.5h3.5V12H3M9.5 8.5H13V12H9.5",
  page: "M3.5 2h6l3 3v9h-9zM9.5 2v3h3M8 7.5v4M6.3 9.9 8 11.6l1.7-1.7",
  keys: "M1.5 4.5h13v7h-13zM4 7h.01M6.5 7h.01M9 7h.01M11.5 7h.01M5 9.5h6",
  folder: "M1.5 12.5v-9h4l1.5 2h7.5v7z",
  reset: "M2.5 6.5v-4h4M13.5 9.5v4h-4M2.5 2.5l4 4M13.5 13.5l-4-4",
  picture: "M2.5 3.5h11v9h-11zM2.5 10.5l3-3 3 3 2-2 3 3M10.5 6.3a.6.6 0 1 1 0-.1",
  labels: "M2.5 3.5h6l5 4.5-5 4.5h-6zM5 8h.01",
  close: "M4 4l8 8M12 4l-8 8",
  play: "M5 3.5v9l7-4.5z",
  stop: "M4.5 4.5h7v7h-7z",
  search: "M7 2.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9ZM10.3 10.3l3.2 3.2",
  check: "M3 8.5l3.2 3L13 4.5",
  target: "M8 1.5v3M8 11.5v3M1.5 8h3M11.5 8h3M8 5.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5Z",
  plus: "M8 3v10M3 8h10",
  minus: "M3 8h10",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="sl-icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
