"""The tunnel: an agent beside an engine dials out to the gateway, which reaches the engine through that connection."""
