"""Where models come from: a local path, a Hugging Face revision, a Python package that carries weights."""
