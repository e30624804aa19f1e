"""Floors, ceilings and nulls: what every number is shown between."""
