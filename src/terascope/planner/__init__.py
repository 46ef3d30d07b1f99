"""What a model needs, how fast it will be, and what to type: memory, layouts, times and launch files without a GPU."""
