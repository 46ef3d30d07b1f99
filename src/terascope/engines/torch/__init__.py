"""The embedded engine: transformers models in a worker process."""
