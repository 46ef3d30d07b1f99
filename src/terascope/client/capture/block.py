"""Rows of a dataset in memory: the activations of some prompts, and which prompt and token each is of."""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from terascope.client.capture.prompts import Prompt
from terascope.core.errors import BadRequest
from terascope.internals.arrays import Array, DType
from terascope.internals.packing import Spec

TOKEN = "token"  # noqa: S105 - the name of an axis
_NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Column:
    """What every row has of one array: type, shape and names of axes."""

    dtype: DType
    shape: tuple[int, ...]
    axes: tuple[str, ...]

    @property
    def elements(self) -> int:
        """How many numbers a row has."""
        count = 1
        for side in self.shape:
            count *= side
        return count


@dataclass(slots=True)
class Done:
    """What became of one prompt: its rows by array, or why there are none."""

    prompt: Prompt
    tokens: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    arrays: dict[str, tuple[Column, memoryview | bytes]] = field(default_factory=dict, repr=False)
    rows: int = 0
    error: str = ""

    def add(self, name: str, spec: Spec, one: Array) -> None:
        """Add an array: a row for each token, or one row when it has no axis of tokens.

        Raises `BadRequest` when it has other rows than those before it.
        """
        by_token = bool(spec.axes) and spec.axes[0] == TOKEN
        rows = spec.shape[0] if by_token else 1
        column = Column(spec.dtype, spec.shape[by_token:], spec.axes[by_token:])
        if self.arrays and rows != self.rows:
            raise BadRequest(f"{name} has {rows} rows and other sites have {self.rows}; capture them apart")
        self.rows = rows
        self.arrays[name] = (column, memoryview(one.data))

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(len(data) for _, data in self.arrays.values())


class Block:
    """Some prompts after each other, as they are written together."""

    def __init__(self) -> None:
        self.prompts: list[Done] = []
        self.rows = 0
        self.nbytes = 0
        self.columns: dict[str, Column] = {}
        self._data: dict[str, list[memoryview | bytes]] = {}
        self.prompt, self.position, self.token = array("q"), array("i"), array("i")

    def add(self, done: Done) -> None:
        """Add what became of a prompt. Raises `BadRequest` when its rows have another shape than those before it."""
        self.prompts.append(done)
        for name, (column, data) in done.arrays.items():
            check_column(name, self.columns.setdefault(name, column), column, done.prompt)
            self._data.setdefault(name, []).append(data)
        self.rows += done.rows
        self.nbytes += done.nbytes
        self.prompt.extend([done.prompt.number] * done.rows)
        here = list(done.positions) if len(done.positions) == done.rows else [_NOWHERE] * done.rows
        self.position.extend(here)
        self.token.extend(done.tokens[at] if 0 <= at < len(done.tokens) else _NOWHERE for at in here)

    def data(self, name: str) -> bytes:
        """The bytes of an array of all rows, in C order."""
        return b"".join(self._data[name])

    def pieces(self, name: str) -> Iterable[memoryview | bytes]:
        """The same without a copy, in pieces."""
        return self._data[name]

    @property
    def failed(self) -> int:
        """How many prompts have no rows because they failed."""
        return sum(bool(done.error) for done in self.prompts)


def check_column(name: str, known: Column, found: Column, prompt: Prompt) -> None:
    """Raise `BadRequest` unless rows that are `found` fit to those that are `known`."""
    if known != found:
        raise BadRequest(
            f"line {prompt.line}: {name} has rows of {_said(found)}, those before it {_said(known)}; rows of a dataset "
            "have one shape: reduce them, or choose another site"
        )


def column_of(said: Mapping[str, object]) -> Column:
    """A column as the manifest has it. Raises `ValueError`, `KeyError` and `TypeError` for what is none."""
    shape, axes = said["shape"], said["axes"]
    if not isinstance(shape, list) or not isinstance(axes, list):
        raise TypeError("`shape` and `axes` are lists")
    return Column(DType(str(said["dtype"])), tuple(int(side) for side in shape), tuple(str(one) for one in axes))


def _said(column: Column) -> str:
    return f"{column.dtype} {list(column.shape)}"
