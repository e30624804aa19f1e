"""The questions a biologist asks, one module each."""
