"""What was run: a record for every request."""
