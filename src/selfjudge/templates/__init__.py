"""Judgment templates as text files, and the one place that renders them."""
