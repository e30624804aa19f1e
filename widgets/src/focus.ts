/**
 * Keeps the focus in the bench when what holds it is taken away: a card that is closed, a message that is dismissed. The
 * nearest thing that takes keys gets it, the one behind first, so that the next key still reaches the bench.
 */

const FOCUSABLE = ["button", "input", "select", "textarea", "[tabindex='0']"]
  .map((name) => `${name}:not(:disabled):not([tabindex='-1'])`)
  .join();

export function keepFocus(root: HTMLElement): () => void {
  let last: HTMLElement | null = null;
  const onIn = (event: FocusEvent) => {
    last = event.target as HTMLElement;
  };
  // By hand the focus may leave to nowhere; what has been taken away is no longer connected, and was looked at before.
  const onOut = () =>
    setTimeout(() => {
      if (last?.isConnected && !root.contains(focused(root))) last = null;
    });
  const observer = new MutationObserver((records) => {
    if (!last || last.isConnected || !root.isConnected) return;
    const gone = last;
    last = null;
    const at = focused(root);
    if (at && at !== document.body && !at.contains(root)) return;
    const record = records.find(({ removedNodes }) => [...removedNodes].some((node) => node.contains(gone)));
    if (record) neighbour(record, root)?.focus();
  });
  root.addEventListener("focusin", onIn);
  root.addEventListener("focusout", onOut);
  observer.observe(root, { childList: true, subtree: true });
  return () => {
    root.removeEventListener("focusin", onIn);
    root.removeEventListener("focusout", onOut);
    observer.disconnect();
  };
}

/** What has the focus, also within a shadow root. */
function focused(root: HTMLElement): Element | null {
  return (root.getRootNode() as Document | ShadowRoot).activeElement ?? document.activeElement;
}

function neighbour({ target, previousSibling, nextSibling }: MutationRecord, root: HTMLElement) {
  let parent: Node | null = target;
  let before = previousSibling?.parentNode === target ? previousSibling : null;
  // What stands there now may have come in the place of what went.
  let after = before
    ? before.nextSibling
    : nextSibling?.parentNode === target
      ? nextSibling
      : target.firstChild;
  while (parent) {
    for (let node = after; node; node = node.nextSibling) {
      const [found] = takers(node);
      if (found) return found;
    }
    for (let node = before; node; node = node.previousSibling) {
      const found = takers(node).pop();
      if (found) return found;
    }
    if (parent === root) return null;
    before = parent.previousSibling;
    after = parent.nextSibling;
    parent = parent.parentNode;
  }
  return null;
}

function takers(node: Node): HTMLElement[] {
  if (!(node instanceof HTMLElement)) return [];
  const all = [node, ...node.querySelectorAll<HTMLElement>("*")].filter((element) =>
    element.matches(FOCUSABLE),
  );
  return all.filter((element) => element.getClientRects().length > 0);
}
