"""Adapters to what runs a model. `contract.py` says what each must do."""
