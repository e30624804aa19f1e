"""Files in and out of the registry: downloads, archives, signed bundles, read-only mirrors, checkpoints that lie about."""
