"""The engines' own metrics: fetched from the replicas, which nothing outside reaches, and written as one text."""

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from terascope.core.errors import EngineUnreachable
from terascope.fleet.replica import Replica

ANSWER_S = 3.0
"""Seconds in which an engine has to answer; Prometheus itself gives up after ten."""
UP = "terascope_engine_up"

_TYPES = ("counter", "gauge", "histogram", "summary", "unknown")  # of the text format; others are OpenMetrics'
_SHORT_COUNTER = re.compile(r"^([ \t]*#[ \t]+TYPE[ \t]+(?!\S*_total[ \t])\S+[ \t]+)counter\b", re.MULTILINE)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """What the engine of one replica told of itself; `text` is None when it did not answer."""

    model: str
    replica: str
    text: str | None


async def engine_metrics(replicas: Iterable[Replica], *, timeout_s: float = ANSWER_S) -> bytes:
    """Return the metrics of the engines of `replicas`, asked now and all at once, as `merged` writes them.

    Takes `timeout_s` at most and the time of reading what came, which a thread does. No failure of an engine raises.
    """
    told = await asyncio.gather(*(_ask(one, timeout_s) for one in replicas))
    return await asyncio.to_thread(merged, told)


async def _ask(replica: Replica, timeout_s: float) -> Told:
    text = None
    try:
        async with asyncio.timeout(timeout_s):
            text = await replica.engine.metrics()
    except TimeoutError:
        _log.warning("replica %s did not tell its metrics within %g s", replica.id, timeout_s)
    except EngineUnreachable as error:
        _log.warning("replica %s did not tell its metrics: %s", replica.id, error.message)
    return Told(replica.row.model, replica.id, text)


def merged(told: Iterable[Told]) -> bytes:
    """Write what engines told as one text in Prometheus' format.

    Every sample gets the labels `model` and `replica`; an engine's own label of such a name becomes `exported_model`
    or `exported_replica`, as in Prometheus. `terascope_engine_up` is 1 for each engine whose text could be read.
    """
    up = GaugeMetricFamily(UP, "Whether the engine told its metrics.", labels=["model", "replica"])
    families = _Families()
    for one in told:
        read = _read(one)
        up.add_metric([one.model, one.replica], float(read is not None))
        for family in read or ():
            families.add(family, {"model": one.model, "replica": one.replica})
    return generate_latest(_Collected([up, *families.collect()]))


def _read(told: Told) -> list[Metric] | None:
    """The families of an engine's text; None when there are none because it is no such text.

    Written once by themselves, so that a number that cannot be written spoils nobody else's.
    """
    if told.text is None:
        return None
    try:
        text = _SHORT_COUNTER.sub(r"\1untyped", told.text)  # else the library would add `_total` to its name
        families = [one for one in text_string_to_metric_families(text) if one.name != UP]
        generate_latest(_Collected(families))
    except Exception as error:  # noqa: BLE001 - an engine's bug; the library's errors for it are of many kinds
        _log.warning("the metrics of replica %s cannot be read: %s", told.replica, repr(error)[:200])
        return None
    return families


class _Collected:
    """Families, as the library wants to be given them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Families:
    """Families of several engines, those of one name as one, and each series once."""

    def __init__(self) -> None:
        self._by_name: dict[str, Metric] = {}
        self._series: set[tuple[str, frozenset[tuple[str, str]]]] = set()

    def add(self, family: Metric, labels: Mapping[str, str]) -> None:
        """Take in a family of one engine, whose samples get `labels`."""
        there = self._merge(family)
        for sample in family.samples:
            labelled = _labelled(sample, labels)
            series = (labelled.name, frozenset(labelled.labels.items()))
            if series not in self._series:
                self._series.add(series)
                there.samples.append(labelled)

    def _merge(self, family: Metric) -> Metric:
        """The family that this one becomes part of. Where engines differ in its type, it has none."""
        name = f"{family.name}_total" if family.type == "counter" else family.name
        there = self._by_name.setdefault(name, Metric(family.name, family.documentation, family.type))
        if there.type != family.type or family.type not in _TYPES:
            there.name, there.type = name, "unknown"
        there.documentation = there.documentation or family.documentation
        return there

    def collect(self) -> Iterable[Metric]:
        return self._by_name.values()


def _labelled(sample: Sample, labels: Mapping[str, str]) -> Sample:
    own = dict(sample.labels)
    for name in labels:
        if name in own:
            free = _free(name, own)
            own[free] = own.pop(name)
    return sample._replace(labels={**own, **labels})


def _free(name: str, taken: Mapping[str, str]) -> str:
    """`name` after as many `exported_` as it takes to be nobody else's."""
    while name in taken:
        name = f"exported_{name}"
    return name
