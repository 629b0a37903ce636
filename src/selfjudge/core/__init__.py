"""Pure maths: no I/O, no transformers."""
