"""Prints the tokens that follow each prompt, with their log-probabilities: `logprobs.py MODEL.gguf PROMPT...`."""

import asyncio
import sys
from pathlib import Path

from terascope.engines.openvino.intake import Intake
from terascope.engines.openvino.pipeline import Pipeline, open_pipeline
from terascope.engines.openvino.settings import WorkerSettings
from terascope.engines.openvino.words import Words
from terascope.engines.worker.metrics import Metrics
from terascope.protocol.openai import CompletionRequest


async def main(model: str, prompts: list[str]) -> None:
    opened = open_pipeline(WorkerSettings(Path(model).parent, "m"), model)
    assert "torch" not in sys.modules
    pipeline = Pipeline(opened, asyncio.get_running_loop(), lambda error: print(error), Metrics())
    intake = Intake(Words(opened.get_tokenizer()), [2], 2048)
    order = intake.completion(CompletionRequest(model="m", prompt=prompts, temperature=0, max_tokens=6))
    for row in order.rows:
        row.config.logprobs = 1
        pipeline.submit(row)
    for row in order.rows:
        found: list[str] = []
        over = False
        while not over:
            news = await row.news.get()
            found += [f"{token}:{value}" for token, value in news.tokens]
            over = news.over
        print("row", *found)
    pipeline.stop()
    assert pipeline.join(10)


asyncio.run(main(sys.argv[1], sys.argv[2:]))
