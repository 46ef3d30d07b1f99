"""Reads metrics in Prometheus' text format more strictly than the library does: what is wrong is a failure."""

import re
from collections.abc import Mapping

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""The value of each series: of a name and its labels."""


def families(text: str) -> dict[str, Metric]:
    """Every family of `text` by the name under which it is written.

    Raises `AssertionError` when a family has no HELP and TYPE line, or more than one of each, or a series is there
    twice; `ValueError` when a line cannot be read.
    """
    for kind in ("HELP", "TYPE"):
        told = re.findall(rf"^# {kind} (\S+)", text, re.MULTILINE)
        assert len(told) == len(set(told)), f"more than one {kind} line of a family"
    found = list(text_string_to_metric_families(text))
    by_name = {f"{one.name}_total" if one.type == "counter" else one.name: one for one in found}
    assert len(found) == len(by_name), "a family is in more than one place"
    assert set(by_name) == set(told), "a series is outside its family"
    samples = [sample for one in found for sample in one.samples]
    assert len(samples) == len(series(text)), "a series is there twice"
    return by_name


def series(text: str) -> Series:
    """The value of every series of `text`; of one that is there twice, the last."""
    samples = (sample for one in text_string_to_metric_families(text) for sample in one.samples)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
