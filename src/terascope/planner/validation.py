"""Published measurements, and what the planner would have predicted. None of them was used to set a constant."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from terascope.core.errors import ServiceError
from terascope.planner.constants import Constants, constants
from terascope.planner.hardware import Cluster, find_gpu
from terascope.planner.layout import Layout
from terascope.planner.library import find_model
from terascope.planner.load import Load
from terascope.planner.precision import Format, format_named
from terascope.planner.roofline import Roofline
from terascope.planner.serving import Copy
from terascope.planner.shapes import Architecture

Row = Mapping[str, str]
_DRAFTS = re.compile(r"MTP (\d+) draft, accept ([\d.]+)")
_SHARE = re.compile(r"MTP, (\d+)% acceptance")
_SPLIT = re.compile(r"(\d+)xDEP(\d+) prefill \+ (\d+)xDEP(\d+) decode")
_BALANCED = re.compile(r"perfect balance|balanced routing")


@dataclass(frozen=True, slots=True)
class Checked:
    """One published measurement with its prediction, in tokens/s for each GPU."""

    row: Row
    predicted: float

    @property
    def measured(self) -> float:
        """What was published."""
        return float(self.row["measured_per_gpu"])

    @property
    def error(self) -> float:
        """The prediction over the measurement, less 1."""
        return self.predicted / self.measured - 1


def published_rows(path: Path | None = None) -> Sequence[Row]:
    """The rows that ship with the planner, or those of another file with the same columns."""
    text = (
        path.read_text(encoding="utf-8")
        if path
        else files("terascope.planner").joinpath("data", "published.csv").read_text(encoding="utf-8")
    )
    return tuple(csv.DictReader(text.splitlines()))


def check(rows: Iterable[Row], values: Constants | None = None) -> tuple[tuple[Checked, ...], tuple[str, ...]]:
    """Return the rows with their predictions, and the names of those whose layout is not said."""
    checked, left = [], []
    for row in rows:
        try:
            checked.append(Checked(row, predict(row, values or constants())))
        except (ServiceError, ValueError, KeyError) as error:
            left.append(f"{row.get('id', '?')}: {error}")
    return tuple(checked), tuple(left)


def predict(row: Row, values: Constants) -> float:
    """Return tokens/s for each GPU as the row counts them. Raises ValueError where it does not say its layout."""
    shapes, note = find_model(row["model"]), row["note"]
    its = replace(values, imbalance=1.0, imbalance_prompt=1.0) if _BALANCED.search(note) else values
    if row["phase"] == "pd":
        return _apart(row, shapes, its)
    layout = _layout(row, shapes)
    cluster = _cluster(row["hardware"], layout.gpus)
    phase = {"prefill": _prompts, "decode": _answers, "aggmax": _both}[row["phase"]]
    return phase(row, Roofline(shapes, cluster, layout, its), layout, its)


def _prompts(row: Row, times: Roofline, layout: Layout, _: Constants) -> float:
    tokens = float(row["batch_per_gpu_or_tokens"])
    return tokens * layout.dp / times.prompt(tokens, float(row["ctx_or_isl"])) / layout.gpus


def _answers(row: Row, times: Roofline, layout: Layout, _: Constants) -> float:
    batch = float(row["batch_per_gpu_or_tokens"])
    drafts, accepted = _speculation(row["note"])
    return batch * layout.dp * accepted / times.decode(batch, float(row["ctx_or_isl"]), drafts) / layout.gpus


def _both(row: Row, times: Roofline, layout: Layout, its: Constants) -> float:
    """Prompts and answers on the same GPUs, as fast as they go: no part of a prompt's time is hidden."""
    batch, given, asked = (float(row[key]) for key in ("batch_per_gpu_or_tokens", "ctx_or_isl", "osl"))
    tokens = max(given, 8192.0)
    prompt = times.prompt(tokens, given) * given / tokens
    step = times.decode(batch, given + asked / 2)
    return batch * asked / (asked * step + batch * prompt) * layout.dp / layout.gpus


def _apart(row: Row, shapes: Architecture, its: Constants) -> float:
    """Prompts on some GPUs and answers on others; the slower side decides."""
    match = _SPLIT.search(row["note"])
    if not match:
        raise ValueError("does not say how many GPUs compute prompts and how many answers")
    copies, ranks, others, answer_ranks = map(int, match.groups())
    weights, given, asked = format_named(row["precision"]), float(row["ctx_or_isl"]), float(row["osl"])
    prompt = Layout(1, 1, ranks, ranks, 1, weights, "fp8")
    answer = Layout(1, 1, answer_ranks, answer_ranks, 1, weights, "fp8")
    cluster = _cluster(row["hardware"], int(row["gpus_in_instance"]))
    load = Load(round(given), round(asked))
    asks = copies * Copy(shapes, cluster, prompt, load, its).prompt_rate / given
    batch = float(row["batch_per_gpu_or_tokens"]) * answer_ranks
    answers = others * Copy(shapes, cluster, answer, load, its).decode(round(batch)).output / asked
    return min(asks, answers) * (given + asked) / int(row["gpus_in_instance"])


def _layout(row: Row, shapes: Architecture) -> Layout:
    tp, dp, ep = (int(row[key] or 1) for key in ("tp", "dp", "ep"))
    cache = "fp8" if re.search(r"FP8 (KV|MLA)", row["note"]) else "bf16"
    return Layout(tp, 1, dp, ep if shapes.is_mixture else 1, 1, _weights(row), cache)


def _weights(row: Row) -> Format:
    own = format_named(row["precision"])
    return replace(own, attention="bf16") if "BF16 attention" in row["note"] else own


def _cluster(name: str, count: int) -> Cluster:
    gpu = find_gpu(name)
    return Cluster(name, max(1, -(-count // gpu.node)), gpu)


def _speculation(note: str) -> tuple[int, float]:
    """Tokens verified beside the next one, and how many a step brings on average."""
    if match := _DRAFTS.search(note):
        return int(match[1]), float(match[2])
    if match := _SHARE.search(note):
        return 1, 1 + int(match[1]) / 100
    return 0, 1.0
