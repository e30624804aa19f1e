"""Where versions are kept. Only this package imports MLflow; `facade` is what the rest of the registry speaks to."""
