"""Engines sample completions and give label probabilities."""
