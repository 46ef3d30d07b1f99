"""Training of LoRA adapters, soft prompts and projectors. `job.py` and `lines.py` need no torch."""
