"""Preference data: sources, pairing, JSFT rows, collation."""
