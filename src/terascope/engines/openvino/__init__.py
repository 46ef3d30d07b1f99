"""OpenVINO GenAI's continuous batching in a worker of ours: queries on CPUs."""
