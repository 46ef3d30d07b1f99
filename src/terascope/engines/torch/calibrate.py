"""Calibration of the planner on this machine's GPU: `python -m terascope.engines.torch.calibrate --out FILE.json`.

It times copies, matrix products, experts, attention and whole layers at the true shapes of a model of a trillion
parameters, one GPU's share of them, and writes every timing with the card, its driver and the date. It needs torch and
nothing else. It ends by itself within `--seconds` and writes the file after every part, so that what was timed is kept.
"""

import argparse
import contextlib
import datetime as dt
import gc
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from terascope.engines.torch import calibrate_attention as attention
from terascope.engines.torch import calibrate_layers as layers
from terascope.engines.torch import calibrate_products as products
from terascope.engines.torch.calibrate_cases import DEEPSEEK_V3, KIMI_K2, SMALL, Case, Maker
from terascope.engines.torch.stopwatch import Budget, Spell, Stopwatch

FORMAT = 1
"""Of the file; raised when a reader of the old one would misread it."""
_FAILED = 1
_KEPT_BACK = 0.06
"""Part of the time that is left for the last case to end and for writing."""
_LAUNCHES = 2000
_MEBI = 2**20


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line."""

    device: str
    out: Path
    seconds: float
    small: bool
    only: tuple[str, ...] = ()


@dataclass(slots=True)
class Found:
    """What is written: about the machine, every timing, and what could not be timed, with the reason."""

    about: dict[str, Any]
    timings: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    launch_us: float = 0.0
    finished: bool = False
    spent_s: float = 0.0

    def write(self, out: Path) -> None:
        """Replace `out` by what was found by now."""
        beside = out.with_name(f"{out.name}.part")
        beside.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")
        beside.replace(out)


def main(arguments: list[str] | None = None) -> int:
    """Calibrate; return the exit status."""
    settings = _parse(arguments)
    budget = Budget(settings.seconds * (1 - _KEPT_BACK))
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no GPU: install a torch for CUDA, or use --device cpu", file=sys.stderr)  # noqa: T201 - a program's own output
        return _FAILED
    with _ended_after(settings.seconds):
        found = Found(about(device, small=settings.small))
        run(found, settings, budget, device)
    print(f"{len(found.timings)} timings, {len(found.skipped)} skipped, {found.spent_s:.0f} s: {settings.out}")  # noqa: T201 - as above
    return 0 if found.timings else _FAILED


def run(found: Found, settings: Settings, budget: Budget, device: torch.device) -> None:
    """Time all parts into `found`, which is written to the file after each; stop when the budget is over.

    A GPU that does not answer any more after an error ends it too; what was timed before is in the file.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    stopwatch, maker = Stopwatch(device), Maker(device)
    one = torch.zeros(1, device=device)
    found.launch_us = stopwatch.launches(lambda _: one.add_(1), _LAUNCHES) * 1e6
    complete = True
    for name, part in parts(maker, small=settings.small):
        if settings.only and name not in settings.only:
            continue
        complete = time_part(part, found, stopwatch, budget) and complete
        found.spent_s = round(budget.spent, 2)
        found.write(settings.out)
        if not _free(device):
            complete = False
            break
    found.finished = complete
    found.write(settings.out)


def time_part(part: Iterator[Case], found: Found, stopwatch: Stopwatch, budget: Budget) -> bool:
    """Time the cases of one part into `found`; whether there was time for all of them."""
    for case in part:
        if budget.over:
            return False
        try:
            spell = stopwatch.time(case.build(), case.copies)
        except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError) as error:
            found.skipped.append(_row(case) | {"reason": str(error).strip().partition("\n")[0][:300]})
        else:
            found.timings.append(_row(case) | _measured(case, spell))
    return True


def parts(maker: Maker, *, small: bool) -> Iterator[tuple[str, Iterator[Case]]]:
    """What is timed, by name, the most important first, and behind it what a GPU may not be able to do."""
    yield from _small_parts(maker) if small else _true_parts(maker)


def _true_parts(maker: Maker) -> Iterator[tuple[str, Iterator[Case]]]:
    its, both = KIMI_K2, ("bf16", "fp8")
    few, many, groups = (1, 8, 32, 128), (1, 8, 32, 128, 512, 2048, 8192), (32, 512, 2048, 8192, 32768, 65536, 131072)
    contexts = (1024, 8192, 32768, 131072)
    yield "bandwidth", products.bandwidth(maker, [64 * _MEBI, 512 * _MEBI, 2048 * _MEBI])
    yield "products", products.products(maker, its, ("q_b", "o", "dense_up", "dense_down", "shared_up"), both, many)
    yield "decode", attention.grouped_decode(maker, 128, 8, 128, (1, 8, 32), contexts)
    yield "prompt", attention.prompts(maker, [(128, 8, 128, 128), (64, 64, 192, 128)], (2048, 8192, 32768))
    yield "kernels", layers.small_kernels(maker, its, (1, 32, 128, 2048, 8192))
    yield "latent", attention.latent_decode(maker, its, (1, 8, 32), contexts)
    yield "share", products.experts(maker, its, ("bf16",), groups, its.experts // 8)
    yield "experts", products.experts(maker, its, ("bf16",), many, its.experts)
    yield "layer", layers.layers(maker, its, few, (1024, 8192))
    yield "sampling", layers.sampling(maker, its, few)
    yield (
        "more",
        products.products(maker, its, ("q_a", "kv_a", "kv_b", "shared_down", "router", "head"), ("bf16",), many),
    )
    yield "wide", products.products(maker, DEEPSEEK_V3, ("q_b", "kv_b", "o"), both, many)
    yield "narrow", attention.grouped_decode(maker, 64, 4, 128, (1, 8, 32), (1024, 8192, 32768))
    yield "single", attention.grouped_decode(maker, 64, 1, 256, (1, 8, 32), (1024, 8192, 32768))
    yield "heads", attention.latent_decode(maker, DEEPSEEK_V3, (8, 32), (8192, 32768))
    yield "share_fp8", products.experts(maker, its, ("fp8",), groups, its.experts // 8)
    yield "experts_fp8", products.experts(maker, its, ("fp8",), many, its.experts)


def _small_parts(maker: Maker) -> Iterator[tuple[str, Iterator[Case]]]:
    few, both = (1, 8), ("bf16", "fp8")
    yield "bandwidth", products.bandwidth(maker, [_MEBI])
    yield "products", products.products(maker, SMALL, tuple(products.matrices(SMALL)), both, few)
    yield "decode", attention.grouped_decode(maker, 4, 2, 16, few, (64,))
    yield "prompt", attention.prompts(maker, [(4, 2, 16, 16), (4, 4, 24, 16)], (64,))
    yield "kernels", layers.small_kernels(maker, SMALL, few)
    yield "latent", attention.latent_decode(maker, SMALL, few, (64,))
    yield "share", products.experts(maker, SMALL, ("bf16",), (8,), SMALL.experts // 2)
    yield "experts", products.experts(maker, SMALL, ("bf16",), few, SMALL.experts)
    yield "layer", layers.layers(maker, SMALL, few, (64,))
    yield "sampling", layers.sampling(maker, SMALL, few)
    yield "experts_fp8", products.experts(maker, SMALL, ("fp8",), (8,), SMALL.experts)


def about(device: torch.device, *, small: bool) -> dict[str, Any]:
    """What the timings hold for: the card, its driver, torch and the date."""
    found = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "device": device.type,
        "card": platform.processor() or platform.machine(),
        "memory": 0,
        "capability": "",
        "multiprocessors": 0,
        "driver": "",
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "small": small,
    }
    if device.type == "cuda":
        its = torch.cuda.get_device_properties(device)
        found |= {"card": its.name, "memory": its.total_memory, "capability": f"{its.major}.{its.minor}"}
        found |= {"multiprocessors": its.multi_processor_count, "driver": _driver()}
    return found


def _driver() -> str:
    """The driver's version, empty where nothing says it."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip().partition("\n")[0]


def _row(case: Case) -> dict[str, Any]:
    return {"part": case.part, "name": case.name, "format": case.number_format, "shape": dict(case.shape)}


def _measured(case: Case, spell: Spell) -> dict[str, Any]:
    return {"read": case.read, "operations": case.operations, "copies": case.copies, **asdict(spell)}


def _free(device: torch.device) -> bool:
    """Free the memory of a part before the next; False when the device does not answer any more."""
    gc.collect()
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except RuntimeError as error:
        print(f"the GPU does not answer any more: {error}", file=sys.stderr)  # noqa: T201 - a program's own output
        return False
    return True


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """End the process after so long, whatever it waits for; what was written stays."""
    timer = threading.Timer(seconds, os._exit, [_FAILED])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _parse(arguments: list[str] | None) -> Settings:
    parser = argparse.ArgumentParser("terascope calibrate", description=__doc__.partition("\n")[0] if __doc__ else "")
    add = parser.add_argument
    add("--device", default="cuda:0", help="cuda:0, cuda:1, ... or cpu")
    add("--out", type=Path, required=True, help="file to be written, JSON")
    add("--seconds", type=float, default=90.0, help="longest time that it may take")
    add("--small", action="store_true", help="tiny shapes: shows that everything runs, says nothing about speed")
    add("--only", default="", metavar="PART,...", help="time these parts alone; default: all")
    found = parser.parse_args(arguments)
    if not found.seconds > 0:
        parser.error("--seconds must be above 0")
    only = tuple(filter(None, found.only.split(",")))
    known = [name for name, _ in parts(Maker(torch.device("cpu")), small=found.small)]
    if unknown := set(only) - set(known):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; parts are {', '.join(known)}")
    return Settings(found.device, found.out, found.seconds, found.small, only)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # what was timed is written
        sys.exit(main())
