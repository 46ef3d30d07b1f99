"""Where replicas run: launchers, replica rows, the reconciler."""
