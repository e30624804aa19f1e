/** Light or dark, as the host has it, told again when the host changes. */

import type { Theme } from "./palette.ts";

/** What the hosts say, most specific first; `null` where a host says nothing. */
function hostTheme(document: Document): Theme | null {
  const { body, documentElement: html } = document;
  const jupyter = body?.dataset.jpThemeLight;
  if (jupyter) return jupyter === "true" ? "light" : "dark";
  const kind = body?.dataset.vscodeThemeKind ?? body?.className ?? "";
  if (/vscode-(dark|high-contrast)(?!-light)/.test(kind)) return "dark";
  if (/vscode-/.test(kind)) return "light";
  const named = html.dataset.theme ?? html.getAttribute("theme") ?? body?.dataset.theme;
  if (named === "dark" || named === "light") return named;
  if (html.classList.contains("dark") || body?.classList.contains("dark")) return "dark";
  if (html.classList.contains("light") || body?.classList.contains("light")) return "light";
  return null;
}

export function currentTheme(): Theme {
  return hostTheme(document) ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

/** Call back at every change; returns what stops it. */
export function watchTheme(callback: (theme: Theme) => void): () => void {
  let last = currentTheme();
  const look = () => {
    const theme = currentTheme();
    if (theme !== last) {
      last = theme;
      callback(theme);
    }
  };
  const observer = new MutationObserver(look);
  const watched = {
    attributes: true,
    attributeFilter: ["class", "data-theme", "theme", "data-jp-theme-light", "data-vscode-theme-kind"],
  };
  observer.observe(document.documentElement, watched);
  if (document.body) observer.observe(document.body, watched);
  const query = matchMedia("(prefers-color-scheme: dark)");
  query.addEventListener("change", look);
  return () => {
    observer.disconnect();
    query.removeEventListener("change", look);
  };
}
