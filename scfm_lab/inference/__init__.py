"""Hardware, plan and engine: where and how models run."""
