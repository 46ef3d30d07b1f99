"""What may be seen and changed inside a model: sites, plans, what they cost, arrays on the wire. No torch, no I/O."""
