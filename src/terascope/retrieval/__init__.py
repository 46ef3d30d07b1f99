"""Vector stores: files of projects cut into passages, found by meaning, in versions that can be asked for again."""
