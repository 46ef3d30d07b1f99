"""LoRA adapters in the torch worker: read, kept within a budget, added to the steps of rows that have one."""
