"""Measuring what a run achieved, and the report."""
