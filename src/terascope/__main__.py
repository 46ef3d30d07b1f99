"""`python -m terascope` is `terascope`."""

from terascope.cli import main

main()
