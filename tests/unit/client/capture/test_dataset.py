"""Datasets in every format: what was told to be there is there, once, whatever was killed when."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import zarr
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as some

from terascope.client.capture.block import Block, Done
from terascope.client.capture.dataset import KINDS, PROMPTS, Dataset, rows_of
from terascope.client.capture.manifest import Manifest, alone, beside
from terascope.client.capture.prompts import Prompt
from terascope.client.capture.settings import Settings
from terascope.core.errors import BadRequest, Conflict
from terascope.internals.arrays import Array, DType
from terascope.internals.packing import Spec

SETTINGS = Settings("m", ("a",))
SITE = "blocks.0.residual.post"
Rows = dict[str, Any]


def done(number: int, tokens: int, *, dtype: DType = DType.F32, width: int = 3, error: str = "") -> Done:
    """A prompt of so many tokens; the numbers say which."""
    prompt = Prompt(number, number + 1, f"id {number}", {"text": "x"}, {"n": number}, 10 * number + 10, tokens)
    one = Done(prompt, tuple(range(100, 100 + tokens)), tuple(range(tokens)), error=error)
    if not error:
        values = np.arange(tokens * width, dtype="<f4").reshape(tokens, width) + 1000 * number
        data = values.astype("<f2").tobytes() if dtype is DType.F16 else values.tobytes()
        if dtype is DType.BF16:
            data = (values.view("<u4") >> 16).astype("<u2").tobytes()
        one.add(SITE, Spec(SITE, dtype, (tokens, width), ("token", "channel")), Array(dtype, (tokens, width), data))
    return one


def block(*prompts: Done) -> Block:
    made = Block()
    for one in prompts:
        made.add(one)
    return made


def opened(directory: Path) -> Dataset:
    with alone(directory):
        manifest = Manifest.load(directory, SETTINGS, directory.suffix)
        manifest.save(directory)
        return Dataset(directory, manifest)


def append(dataset: Dataset, *prompts: Done) -> None:
    dataset.append(block(*prompts), prompts[-1].prompt.end, prompts[-1].prompt.line, "")


def read(directory: Path) -> Rows:
    """The rows as a reader of the format finds them."""
    if directory.suffix == ".zarr":
        group = zarr.open_group(str(directory), mode="r")
        return {name: np.asarray(group[name]) for name in ("prompt", "position", "token", SITE) if name in group}
    if directory.suffix == ".parquet":
        if not list(directory.iterdir()):
            return {}
        table = pq.read_table(directory)
        width = table.schema.field(SITE).type.list_size
        found = {name: table[name].to_numpy() for name in ("prompt", "position", "token")}
        flat = table[SITE].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return found | {SITE: flat.reshape(-1, width)}
    if not (directory / "index.json").exists():
        return {}
    parts = orjson.loads((directory / "index.json").read_bytes())["parts"]
    files = [safetensors.numpy.load_file(directory / part["file"]) for part in parts]
    return {name: np.concatenate([one[name] for one in files]) for name in ("prompt", "position", "token", SITE)}


def expected(prompts: Sequence[Done]) -> Rows:
    whole = block(*prompts)
    width = whole.columns[SITE].shape[0]
    return {
        "prompt": np.array(whole.prompt, "<i8"), "position": np.array(whole.position, "<i4"),
        "token": np.array(whole.token, "<i4"), SITE: np.frombuffer(whole.data(SITE), "<f4").reshape(-1, width),
    }  # fmt: skip


def same(found: Rows, wanted: Rows) -> bool:
    return found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


def listed(directory: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (beside(directory) / PROMPTS).read_bytes().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
@hypothesis_settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    parts=some.lists(
        some.tuples(
            some.lists(some.integers(1, 5), min_size=1, max_size=3), some.sampled_from(["kept", "killed", "start"])
        ),
        min_size=1,
        max_size=6,
    )
)
def test_no_row_is_lost_or_doubled(
    tmp_path_factory: pytest.TempPathFactory, kind: str, parts: list[tuple[list[int], str]]
) -> None:
    """A part that is killed after its rows were written and before it counted is written again later."""
    directory = tmp_path_factory.mktemp("data") / f"acts{kind}"
    dataset = opened(directory)
    kept: list[Done] = []
    for sizes, what in parts:
        coming = [done(len(kept) + number, size) for number, size in enumerate(sizes)]
        if what == "killed":
            dataset._rows.append(block(*coming), dataset.manifest)
            dataset._told(block(*coming))
            dataset = opened(directory)
            continue
        append(dataset, *coming)
        kept += coming
        if what == "start":
            dataset = opened(directory)
    dataset = opened(directory)
    if kept:
        assert same(read(directory), expected(kept))
    assert dataset.manifest.rows == sum(one.rows for one in kept)
    assert [row["prompt"] for row in listed(directory)] == list(range(len(kept)))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_it(tmp_path: Path, kind: str) -> None:
    directory = tmp_path / f"acts{kind}"
    dataset = opened(directory)
    append(dataset, done(0, 2), done(1, 0, error="too long"), done(2, 1))
    dataset.end()
    assert same(read(directory), expected([done(0, 2), done(2, 1)]))
    assert listed(directory) == [
        {"prompt": 0, "id": "id 0", "first_row": 0, "rows": 2, "labels": {"n": 0}},
        {"prompt": 1, "id": "id 1", "first_row": 2, "rows": 0, "error": "too long", "labels": {"n": 1}},
        {"prompt": 2, "id": "id 2", "first_row": 2, "rows": 1, "labels": {"n": 2}},
    ]
    now = Manifest.load(directory, SETTINGS, kind)
    assert (now.prompts, now.failed, now.rows, now.bytes, now.parts, now.whole) == (3, 1, 3, 36, 1, True)
    assert now == dataset.manifest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_elements_of_16_bits(tmp_path: Path, kind: str, dtype: DType) -> None:
    directory = tmp_path / f"acts{kind}"
    append(opened(directory), done(0, 2, dtype=dtype))
    if kind == ".safetensors" and dtype is DType.BF16:
        part = (directory / "part-000000.safetensors").read_bytes()
        assert b'"BF16"' in part  # as it came
        return
    values = read(directory)[SITE]
    assert values.dtype == ("float16" if dtype is DType.F16 else "float32")
    assert np.array_equal(values, np.arange(6).reshape(2, 3))


def test_names_of_axes(tmp_path: Path) -> None:
    for kind in (".zarr", ".parquet"):
        append(opened(tmp_path / f"acts{kind}"), done(0, 2))
    described = orjson.loads((tmp_path / "acts.zarr" / SITE / "zarr.json").read_bytes())
    assert described["dimension_names"] == ["row", "channel"]
    table = pq.read_table(tmp_path / "acts.parquet")
    assert table.schema.field(SITE).metadata == {b"shape": b"[3]", b"axes": b'["channel"]'}
    assert table["labels"].to_pylist() == ['{"n":0}'] * 2
    assert table["id"].to_pylist() == ["id 0"] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_for_a_prompt(tmp_path: Path, kind: str) -> None:
    """A mean over tokens has no axis of tokens: its row is of no position."""
    one = Done(done(0, 1).prompt, (1, 2, 3), (0, 1, 2))
    one.add(SITE, Spec(SITE, DType.F32, (2,), ("channel",)), Array(DType.F32, (2,), bytes(8)))
    append(opened(tmp_path / f"acts{kind}"), one)
    found = read(tmp_path / f"acts{kind}")
    assert (found[SITE].shape, list(found["position"]), list(found["token"])) == ((1, 2), [-1], [-1])


def test_rows_of_different_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"line 2: .*rows of F32 \[4\], those before it F32 \[3\]"):
        block(done(0, 2), done(1, 2, width=4))
    dataset = opened(tmp_path / "acts.safetensors")
    append(dataset, done(0, 2))
    with pytest.raises(BadRequest, match="rows of a dataset have one shape"):
        append(dataset, done(1, 2, width=4))
    one = done(0, 2)
    with pytest.raises(BadRequest, match="b has 1 rows and other sites have 2"):
        one.add("b", Spec("b", DType.F32, (1,), ("token",)), Array(DType.F32, (1,), bytes(4)))


def test_what_is_not_continued(tmp_path: Path) -> None:
    directory = tmp_path / "acts.zarr"
    append(opened(directory), done(0, 2))
    with pytest.raises(Conflict, match="was begun with tokens 'all', not 'last'"):
        Manifest.load(directory, Settings("m", ("a",), "last"), ".zarr")
    with alone(directory), pytest.raises(Conflict, match="another capture is writing"), alone(directory):
        pass
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "other.zarr" / "thing").touch()
    with pytest.raises(Conflict, match="something else in it"), alone(tmp_path / "other.zarr"):
        pass
    with pytest.raises(Conflict, match="cannot write"), alone(tmp_path / "other.zarr" / "thing" / "a.zarr"):
        pass
    path = beside(directory) / "manifest.json"
    for text, words in ((b"{", "is damaged"), (b'{"format": 2}', "another Terascope")):
        path.write_bytes(text)
        with pytest.raises(Conflict, match=words):
            Manifest.load(directory, SETTINGS, ".zarr")
    with pytest.raises(BadRequest, match=r"must end with \.zarr, \.parquet, \.safetensors"):
        rows_of(".csv", tmp_path)
