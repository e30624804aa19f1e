"""AnnData in, AnnData out: raw counts, gene identifiers, doses, provenance."""
