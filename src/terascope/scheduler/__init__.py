"""Who goes next and where: pure decisions, no I/O."""
