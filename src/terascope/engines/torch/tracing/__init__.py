"""Plans of intermediary access, carried out inside the torch worker."""
