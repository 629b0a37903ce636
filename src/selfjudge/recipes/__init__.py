"""Recipes: one YAML file for the whole road."""
