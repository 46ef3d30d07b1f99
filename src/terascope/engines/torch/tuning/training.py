"""The loop: steps, checkpoints, held-out loss, until the end or until it is told to stop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from terascope.core.errors import BadRequest
from terascope.core.tuning import Hyperparameters
from terascope.engines.torch.tuning.base import Base
from terascope.engines.torch.tuning.data import Lines, Order, batches, mixed_seed
from terascope.engines.torch.tuning.progress import Progress
from terascope.engines.torch.tuning.rate import rate
from terascope.engines.torch.tuning.saves import Saves, Standing
from terascope.engines.torch.tuning.steps import batch_of, loss_sum
from terascope.engines.torch.tuning.trainees import Trainee


@dataclass(frozen=True, slots=True)
class Data:
    """What is trained on and in which order; `held_out` are the lines of `measured` that are not."""

    trained: Lines
    order: Order
    measured: Lines
    held_out: list[int]


class Training:
    """One training. What it is after a step is a function of job, data and seed, on the same machine bit for bit."""

    def __init__(
        self,
        base: Base,
        trainee: Trainee,
        data: Data,
        settings: Hyperparameters,
        seed: int,
        saves: Saves,
        progress: Progress,
    ) -> None:
        self._base, self._trainee, self._data, self._settings, self._seed = base, trainee, data, settings, seed
        self._saves, self._progress = saves, progress
        self._parameters = trainee.parameters()
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        epochs = data.order.steps * settings.n_epochs
        self.steps = min(epochs, settings.max_steps) if settings.max_steps else epochs
        self.standing = Standing("")

    def run(self, stopped: Callable[[], bool]) -> bool:
        """Train from the last checkpoint to the end; return False when `stopped` said so before that.

        Then, and at the end, the last step is in a checkpoint. Raises `BadRequest` when the loss is no number.
        """
        self.standing = self._saves.restore(self._parameters, self._optimizer)
        told = {"steps": self.steps, "epochs": self._settings.n_epochs, "steps_in_epoch": self._data.order.steps}
        self._progress.tell("resumed" if self.standing.step else "started", step=self.standing.step, **told)
        if self.standing.step:
            self._tell_saved()
        else:
            self._measure()
        while self.standing.step < self.steps and not stopped():
            self._step()
            self._after()
        if 0 < self.standing.step < self.steps:
            self._save()
        return self.standing.step >= self.steps

    def _step(self) -> None:
        step, began = self.standing.step, time.monotonic()
        torch.manual_seed(mixed_seed(self._seed, f"step {step}"))
        lr = rate(step, self.steps, self._settings)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        loss, tokens = self._backward(self._data.order.batch(step))
        if not math.isfinite(loss):
            raise BadRequest(
                f"at step {step + 1} the loss is not a finite number any more; set a lower learning_rate",
                param="learning_rate",
            )
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.standing = replace(self.standing, step=step + 1, tokens=self.standing.tokens + tokens)
        seconds = time.monotonic() - began
        self._progress.tell(
            "step", step=step + 1, loss=loss, lr=lr, tokens=self.standing.tokens, norm=float(norm), seconds=seconds
        )

    def _backward(self, chosen: list[int]) -> tuple[float, int]:
        """Compute the gradients of a step, part by part; return its mean loss of learned tokens, and its tokens."""
        self._trainee.train(True)
        parts = list(batches(self._data.trained, chosen, self._settings.micro_batch_tokens))
        learned = sum(sum(one.learned) for part in parts for one in part)
        total = 0.0
        for part in parts:
            loss = loss_sum(self._base, self._trainee, batch_of(part, self._base.device)) / learned
            loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no type
            total += float(loss.detach())
        before = self._trainee.before
        return total, sum(len(one) + before for part in parts for one in part)

    def _after(self) -> None:
        step, settings = self.standing.step, self._settings
        every = settings.eval_every or self._data.order.steps
        if step % every == 0 or step == self.steps:
            self._measure()
        if step % settings.checkpoint_every == 0 or step == self.steps:
            self._save()

    def _save(self) -> None:
        """Write a checkpoint. A disk that is full costs the checkpoint, not the training: the last one stays."""
        step = self.standing.step
        try:
            self._saves.save(self.standing, self._parameters, self._optimizer)
        except OSError as error:
            told = f"the checkpoint of step {step} could not be written: {error.strerror}; the one before is kept"
            self._progress.tell("warning", step=step, message=told)
        else:
            self._tell_saved()

    def _tell_saved(self) -> None:
        """Tell of the checkpoint; once more when it is gone on from, for the process may have been killed before."""
        self._progress.tell("checkpoint", step=self.standing.step, tokens=self.standing.tokens)

    @torch.no_grad()
    def _measure(self) -> None:
        """Compute the mean loss of the held-out lines."""
        if not self._data.held_out:
            return
        self._trainee.train(False)
        total = learned = 0.0
        tokens = 0
        for part in batches(self._data.measured, self._data.held_out, self._settings.micro_batch_tokens):
            total += float(loss_sum(self._base, self._trainee, batch_of(part, self._base.device)))
            learned += sum(sum(one.learned) for one in part)
            tokens += sum(len(one) + self._trainee.before for one in part)
        self.standing = replace(self.standing, measured=self.standing.measured + tokens)
        self._progress.tell("held_out", step=self.standing.step, loss=total / learned, tokens=self.standing.measured)
