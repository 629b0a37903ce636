"""Timing the parts of the method, alone and against a faithful implementation of the published algorithm."""
