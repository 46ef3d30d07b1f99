"""What vLLM loads into its own processes, in its own environment: nothing here imports the rest of the package."""
