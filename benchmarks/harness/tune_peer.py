"""A plain PEFT loop: what one writes oneself for LoRA, on the batches of a job of ours.

    python -m harness.tune_peer DIRECTORY

`DIRECTORY` holds a job of the trainer. Its batches are read with the trainer's own reader, before anything is timed;
then come PEFT's model, transformers' loss of labels and AdamW, with the job's own settings. Prints the seconds of each
step as one line of JSON.
"""

import json
import math
import sys
import time
from pathlib import Path

import peft
import torch

from terascope.engines.torch.tuning.base import load_base
from terascope.engines.torch.tuning.data import Lines, Order
from terascope.engines.torch.tuning.examples import Example, ExampleReader
from terascope.engines.torch.tuning.job import TuningJob

Batch = dict[str, torch.Tensor]


def main() -> None:
    job = TuningJob.read(Path(sys.argv[1]))
    torch.set_num_threads(job.threads)
    base = load_base(job, lambda _: None)
    with Lines(Path(job.training_file), "training_file", job.method, ExampleReader(base)) as lines:
        lines.check(lambda _: None)
        order = Order(len(lines), 0.0, job.settings.batch_size, job.seed)
        batches = [collated([lines[index] for index in order.batch(step)]) for step in range(job.settings.max_steps)]
    config = peft.LoraConfig(
        r=job.settings.rank, lora_alpha=job.settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    print(json.dumps(trained(peft.get_peft_model(base.module, config), batches, job)))


def collated(rows: list[Example]) -> Batch:
    """Rows filled up at their ends; what is not learned has the label -100."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        tokens = torch.tensor(row.tokens)
        ids[number, : len(row)], mask[number, : len(row)] = tokens, 1
        learned = torch.tensor(row.learned)
        labels[number, : len(row)][learned] = tokens[learned]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def trained(model: peft.PeftModel, batches: list[Batch], job: TuningJob) -> list[float]:
    """The seconds of each step."""
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=job.settings.learning_rate, weight_decay=0.0)
    model.train()
    seconds = []
    for batch in batches:
        began = time.monotonic()
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, job.settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.monotonic() - began)
        if not math.isfinite(float(loss.detach())):
            raise SystemExit("the loss is not a number")
    return seconds


if __name__ == "__main__":
    main()
