"""Fine-tuning jobs: from an uploaded file to a registered adapter, soft prompt or projector."""
