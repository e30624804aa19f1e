"""An example plugin for scfm-lab. Nothing is imported here: listing plugins reads the manifest alone."""
