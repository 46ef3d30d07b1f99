"""What starts a replica. `contract.py` says what each must do."""
