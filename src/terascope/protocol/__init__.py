"""The wire: OpenAI models, our own endpoints, SSE in and out."""
