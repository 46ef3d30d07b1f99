"""What `terascope doctor` looks at."""
