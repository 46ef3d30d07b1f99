"""vLLM: a server of its own, started here, in an environment of its own."""
