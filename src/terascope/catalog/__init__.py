"""Which models exist, exactly: sources, digests, versions, aliases."""
