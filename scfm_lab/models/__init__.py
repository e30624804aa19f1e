"""Models: one module per family, all of one contract (:mod:`scfm_lab.models.contract`)."""
