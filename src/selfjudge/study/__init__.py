"""Studies: all methods of a recipe over several seeds, measured alike."""
