"""OpenAI's filters over the attributes of files: comparisons, and `and` and `or` of filters."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from terascope.protocol.vector_stores import ComparisonFilter, CompoundFilter, Filter
from terascope.retrieval.contract import Attributes

_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def matches(wanted: Filter, attributes: Attributes) -> bool:
    """Whether a file with those attributes is wanted.

    A number is compared with a number and a text with a text; whatever else is compared is not equal and in no order.
    A file without the attribute is one for `ne` and `nin` alone.
    """
    if isinstance(wanted, CompoundFilter):
        every = (matches(one, attributes) for one in wanted.filters)
        return all(every) if wanted.type == "and" else any(every)
    return _compared(wanted, attributes.get(wanted.key))


def _compared(wanted: ComparisonFilter, there: object) -> bool:
    if wanted.type in _ORDER:
        return _alike(there, wanted.value) and _ORDER[wanted.type](there, wanted.value)
    several = wanted.value if isinstance(wanted.value, list) else [wanted.value]
    equal = any(_alike(there, one) and there == one for one in several)
    return equal if wanted.type in ("eq", "in") else not equal


def _alike(one: object, other: object) -> bool:
    return _kind(one) is _kind(other)


def _kind(value: object) -> type | None:
    return bool if isinstance(value, bool) else float if isinstance(value, (int, float)) else type(value)
