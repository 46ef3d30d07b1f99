"""Datasets of activations: prompts from a file through a model, what is inside it into Zarr, Parquet or safetensors.

import asyncio
from terascope.client import AsyncClient
from terascope.client.capture import Settings, capture

async def main():
    async with AsyncClient() as client:
        return await capture(client, Settings("smollm2-135m-instruct", ("blocks.6.residual.post",)),
                             "prompts.jsonl", "acts.zarr")

asyncio.run(main())
"""

from terascope.client.capture.progress import Progress
from terascope.client.capture.run import capture
from terascope.client.capture.settings import Settings

__all__ = ["Progress", "Settings", "capture"]
