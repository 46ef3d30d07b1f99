"""Checkpoints of a training: one safetensors file each, whole or not at all. Nothing is ever unpickled."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.parameter import Parameter

from terascope.engines.torch.tuning.safe import PART, write_tensors

_log = logging.getLogger(__name__)
_KEPT = 2
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a training of `job` is: steps that are done, tokens that were trained on and that were measured.

    Which lines come next and which random numbers are drawn are functions of the seed and the step, so nothing else
    is needed to go on as if nothing had happened.
    """

    job: str
    step: int = 0
    tokens: int = 0
    measured: int = 0


class Saves:
    """The checkpoints in a directory; the newest two are kept."""

    def __init__(self, directory: Path, job: str) -> None:
        """`job` is a digest of all that the result depends on."""
        self._directory, self._job = directory, job

    def save(self, standing: Standing, parameters: Mapping[str, Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint, durably on return, and remove older ones. Raises `OSError`; then the last one stays."""
        self._directory.mkdir(exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for name, one in parameters.items():
            tensors[f"parameter.{name}"] = one
            tensors |= {f"{moment}.{name}": optimizer.state[one][moment] for moment in _MOMENTS}
        write_tensors(self._path(standing.step), tensors, {"standing": json.dumps(asdict(standing))})
        for old in self._there()[:-_KEPT]:
            old.unlink(missing_ok=True)

    def restore(self, parameters: Mapping[str, Parameter], optimizer: torch.optim.Optimizer) -> Standing:
        """Put the newest checkpoint that is sound into `parameters` and `optimizer`; return where it stands.

        Where there is none, nothing is changed and the standing is that of a beginning. Checkpoints of another job
        and damaged ones are passed over, and the log says so.
        """
        for path in self._directory.glob(f"*{PART}"):
            path.unlink(missing_ok=True)
        for path in reversed(self._there()):
            try:
                return self._read(path, parameters, optimizer)
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                _log.warning("a checkpoint is not used", extra={"name_of_file": path.name, "reason": str(error)[:200]})
        return Standing(self._job)

    def _read(self, path: Path, parameters: Mapping[str, Parameter], optimizer: torch.optim.Optimizer) -> Standing:
        with safe_open(path, framework="pt") as file:
            standing = Standing(**json.loads((file.metadata() or {})["standing"]))
            if standing.job != self._job:
                raise ValueError("it belongs to another job")
            names = file.keys()
            found = {name: file.get_tensor(name) for name in names}
        kinds = ("parameter", *_MOMENTS)
        if any(found[f"{kind}.{name}"].shape != one.shape for name, one in parameters.items() for kind in kinds):
            raise ValueError("its shapes are others")
        for name, one in parameters.items():
            one.data.copy_(found[f"parameter.{name}"])
            moments = {moment: found[f"{moment}.{name}"].to(one.device) for moment in _MOMENTS}
            optimizer.state[one] = {"step": torch.tensor(float(standing.step)), **moments}
        return standing

    def _there(self) -> list[Path]:
        return sorted(self._directory.glob("step-*.safetensors"))

    def _path(self, step: int) -> Path:
        return self._directory / f"step-{step:09d}.safetensors"
