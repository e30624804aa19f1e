"""A plugin that cannot be imported."""

raise RuntimeError("the broken plugin was imported")
