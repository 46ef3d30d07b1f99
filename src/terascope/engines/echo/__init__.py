"""The echo engine: deterministic, no weights."""
