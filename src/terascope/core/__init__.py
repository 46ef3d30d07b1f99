"""Nouns with no I/O: ids, errors, clock, states, the configuration tree."""
