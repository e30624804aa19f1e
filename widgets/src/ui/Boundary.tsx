/** Holds a fault in one part of the bench, so that the rest goes on. */

import { Component, type ComponentChildren } from "preact";

interface Props {
  /** What it is, for the sentence. */
  name: string;
  children: ComponentChildren;
}

export class Boundary extends Component<Props, { fault: string | null }> {
  override state = { fault: null as string | null };

  static override getDerivedStateFromError(error: unknown) {
    return { fault: error instanceof Error ? error.message : String(error) };
  }

  override componentDidCatch(error: unknown) {
    // For whoever looks for the cause; the sentence below is for everybody.
    console.error(error);
  }

  override render({ name, children }: Props) {
    if (this.state.fault === null) return children;
    return (
      <p class="sl-failed" role="alert">
        {name} cannot be shown: {this.state.fault}.{" "}
        <button type="button" class="sl-link" onClick={() => this.setState({ fault: null })}>
          Try again
        </button>
      </p>
    );
  }
}
