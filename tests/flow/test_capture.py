"""`terascope capture` of a real model: rows as a direct trace has them, each once, whatever was killed when."""

import asyncio
import base64
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import zarr

from terascope.client import AsyncClient, Client
from terascope.client.datasets import Progress, Settings, capture
from terascope.client.datasets.manifest import beside
from terascope.core.errors import BadRequest, Conflict, GatewayUnreachable, ModelNotFound
from terascope.testing.gateway import Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MODEL = "smollm2-135m-instruct"
SITE = "blocks.7.residual.post"
WORDS = [
    "the",
    "city",
    "of",
    "light",
    "and",
    "sound",
    "lies",
    "on",
    "a",
    "river",
    "that",
    "nobody",
    "has",
    "ever",
    "crossed",
    "twice",
]
PROMPTS = [" ".join(WORDS[: 2 + number % 13]) + f" {number}" for number in range(60)]
SLOW = """
import asyncio, sys
from terascope.client import AsyncClient
from terascope.client.datasets import Settings, capture
async def main():
    async with AsyncClient(sys.argv[1], sys.argv[2]) as client:
        settings = Settings(sys.argv[5], (sys.argv[6],))
        tell = lambda now: print(now.prompts, flush=True)
        await capture(client, settings, sys.argv[3], sys.argv[4], batch_prompts=4, part_bytes=50_000, tell=tell)
asyncio.run(main())
"""


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    lines = [{"text": text, "id": f"p{number}", "even": number % 2 == 0} for number, text in enumerate(PROMPTS)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def truth(gateway: Served) -> list[np.ndarray[Any, Any]]:
    """What a trace of each prompt alone gives."""
    found = []
    with Client(gateway.url, gateway.key) as client:
        for start in range(0, len(PROMPTS), 20):
            rows = client.traces.run(MODEL, PROMPTS[start : start + 20], [{"capture": SITE}], dtype="F32").rows
            for row in rows:
                one = row.arrays[SITE].model_dump()
                values = np.frombuffer(base64.b64decode(one["data"]), "<f4")
                found.append(values.reshape(one["shape"]))
    return found


async def captured(gateway: Served, prompts: Path, output: Path, asked: Settings, **more: Any) -> Progress:
    async with AsyncClient(gateway.url, gateway.key) as client:
        return await capture(client, asked, prompts, output, **more)


def rows_in(output: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The number of the prompt, and the activations, of each row."""
    if output.suffix == ".zarr":
        group = zarr.open_group(str(output), mode="r")
        return np.asarray(group["prompt"]), np.asarray(group[SITE])
    if output.suffix == ".parquet":
        table = pq.read_table(output)
        return table["prompt"].to_numpy(), table[SITE].combine_chunks().flatten().to_numpy().reshape(-1, 576)
    parts = orjson.loads((output / "index.json").read_bytes())["parts"]
    files = [safetensors.numpy.load_file(output / part["file"]) for part in parts]
    return tuple(np.concatenate([one[name] for one in files]) for name in ("prompt", SITE))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["zarr", "parquet", "safetensors"])
def test_killed_again_and_again(
    gateway: Served, prompts: Path, truth: list[np.ndarray[Any, Any]], tmp_path: Path, kind: str
) -> None:
    output = tmp_path / f"acts.{kind}"
    command = [sys.executable, "-c", SLOW, gateway.url, gateway.key, str(prompts), str(output), MODEL, SITE]
    for more in (1, 3, 4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(more):
                assert process.stdout.readline()  # as many parts count
            process.kill()
        assert process.returncode == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    prompt, values = rows_in(output)
    assert [int(np.sum(prompt == number)) for number in range(len(PROMPTS))] == [len(one) for one in truth]
    assert np.array_equal(prompt, np.sort(prompt))
    assert np.allclose(values, np.concatenate(truth), atol=1e-3)
    listed = [orjson.loads(line) for line in (beside(output) / "prompts.jsonl").read_bytes().splitlines()]
    assert [one["id"] for one in listed] == [f"p{number}" for number in range(len(PROMPTS))]
    assert listed[3]["labels"] == {"even": False}


def test_a_file_that_grows_is_followed(gateway: Served, prompts: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    output, asked = tmp_path / "acts.safetensors", Settings(MODEL, (SITE,), "last")
    first = asyncio.run(captured(gateway, prompts, output, asked, tell=told.append))
    assert (first.prompts, first.rows, told[-1]) == (60, 60, first)
    assert asyncio.run(captured(gateway, prompts, output, asked)) == first
    before = prompts.read_text()
    written(prompts, before + '\n{"text": "one more"}\n')
    more = asyncio.run(captured(gateway, prompts, output, asked))
    assert (more.prompts, more.rows) == (61, 61)
    written(prompts, before.replace("p3", "p4"))
    with pytest.raises(Conflict, match="have changed"):
        asyncio.run(captured(gateway, prompts, output, asked))


async def test_the_positions_of_rows(gateway: Served, tmp_path: Path) -> None:
    texts = ["The Eiffel Tower is in", "The Colosseum is in Rome"]
    path = written(tmp_path / "p.txt", "\n".join(texts))
    with Client(gateway.url, gateway.key) as client:
        lengths = [len(row.tokens) for row in client.traces.run(MODEL, texts).rows]
    every = [list(range(length)) for length in lengths]
    chosen: dict[Any, slice] = {"all": slice(None), "last": slice(-1, None), "1:3": slice(1, 3), -2: slice(-2, -1)}
    for number, (tokens, part) in enumerate(chosen.items()):
        output = tmp_path / f"{number}.zarr"
        await captured(gateway, path, output, Settings(MODEL, (SITE,), tokens))
        found = list(np.asarray(zarr.open_group(str(output), mode="r")["position"]))
        assert found == [at for one in every for at in one[part]]


async def test_a_prompt_that_fails(gateway: Served, tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", '"one"\n' + json.dumps({"tokens": [1] * 9000}) + '\n"three"\n')
    output, asked = tmp_path / "acts.zarr", Settings(MODEL, (SITE,), "last")
    with pytest.raises(BadRequest, match=r"p.jsonl, line 2: .*9,?000"):
        await captured(gateway, path, output, asked)
    done = await captured(gateway, path, output, asked, skip_failed=True)
    assert (done.prompts, done.failed, done.rows) == (3, 1, 2)
    assert list(rows_in(output)[0]) == [0, 2]


async def test_what_cannot_be(gateway: Served, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "acts.zarr"
    with pytest.raises(BadRequest, match="did you mean"):
        await captured(gateway, prompts, output, Settings(MODEL, ("blocks.3.residual.pots",)))
    with pytest.raises(ModelNotFound):
        await captured(gateway, prompts, output, Settings("none", (SITE,)))
    with pytest.raises(BadRequest, match="must end with"):
        await captured(gateway, prompts, tmp_path / "acts.csv", Settings(MODEL, (SITE,)))


async def test_a_gateway_that_is_gone_is_asked_again(prompts: Path, tmp_path: Path) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with AsyncClient("http://127.0.0.1:9", "key") as client:
        with pytest.raises(GatewayUnreachable):
            await capture(client, Settings(MODEL, (SITE,)), prompts, tmp_path / "a.zarr", sleep=sleep)
    assert slept == [1, 2, 4, 8, 16, 32, 60]


def test_the_command(gateway: Served, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "acts.parquet"
    command = [sys.executable, "-m", "terascope", "capture", str(prompts), "-o", str(output), "-m", MODEL]
    command += [
        "--site",
        "residual.post",
        "--layer",
        "7",
        "--tokens",
        "last",
        "--dtype",
        "F16",
        "--reduce",
        '{"max": "units"}',
    ]
    command += ["--url", gateway.url, "--key", gateway.key]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("60 prompts; 60 rows, ")
    assert len(pq.read_table(output)) == 60
    other = subprocess.run([*command, "--tokens", "all"], capture_output=True, text=True, check=False, timeout=120)
    assert (other.returncode, "was begun with tokens 'last', not 'all'" in other.stderr) == (1, True)


def test_ctrl_c_leaves_what_is_whole(gateway: Served, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "acts.zarr"
    command = [sys.executable, "-c", SLOW, gateway.url, gateway.key, str(prompts), str(output), MODEL, SITE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
    assert process.returncode != 0
    done = asyncio.run(captured(gateway, prompts, output, Settings(MODEL, (SITE,))))
    assert done.prompts == 60
    assert np.array_equal(np.unique(rows_in(output)[0]), np.arange(60))
