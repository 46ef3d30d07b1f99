"""The two default models, from their real wheels, in the cache that `terascope serve` uses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from terascope.core.config import DEFAULT_MODELS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAM = """
import asyncio, json, sys
from dataclasses import asdict
from pathlib import Path
from terascope.catalog.catalog import Catalog
from terascope.core.clock import SystemClock
from terascope.store.database import Database
from terascope.testing.databases import new_sqlite

async def main(folder, cache, name, source):
    database = await Database.open(new_sqlite(Path(folder) / "t.db"))
    catalog = await Catalog.open(database, Path(cache), SystemClock())
    added = await catalog.add(name, source)
    differs = await catalog.verify(added)
    await database.aclose()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    heavy = [name for name in ("torch", "transformers", "numpy", "huggingface_hub") if name in sys.modules]
    print(json.dumps({**asdict(added), "differs": differs, "rss_mb": pages * 4 / 1024, "heavy": heavy}))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "smollm2-135m-instruct",
            {
                "digest": "327d685a9e7c4385dfeb021f860c9d1f6485be878a85422b492021ddd1eb1bb9",
                "task": "generate",
                "context_length": 8192,
                "architecture": "llama",
                "parameters": 134_515_008,
                "licence": "apache-2.0",
            },
        ),
        (
            "all-minilm-l6-v2",
            {
                "digest": "ae148a6cfe1db746184e7bcddbcd0eb6a8c2eaeabe0b55da35bccc6823b3ff10",
                "task": "embed",
                "context_length": 256,
                "architecture": "BertModel",
                "parameters": 22_713_728,
                "licence": "apache-2.0",
            },
        ),
    ],
)
def test_a_default_model(name: str, expected: dict[str, object], tmp_path: Path) -> None:
    arguments = (str(tmp_path), str(user_cache_path("terascope")), name, DEFAULT_MODELS[name].source)
    printed = subprocess.check_output([sys.executable, "-c", PROGRAM, *arguments], text=True)
    added = json.loads(printed)
    assert {key: added[key] for key in expected} == expected
    assert added["differs"] == []
    assert added["heavy"] == []
    assert added["rss_mb"] < 100
