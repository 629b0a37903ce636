"""JSFT and self-training on transformers.Trainer."""
