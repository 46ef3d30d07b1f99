"""The SDK's vector stores, asked of a real gateway."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from terascope.client import AsyncClient, Client
from terascope.core.errors import BadRequest, NotFound
from terascope.testing.gateway import Served, running_gateway


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    with running_gateway() as served:
        yield served


@pytest.fixture
def client(gateway: Served) -> Iterator[Client]:
    with Client(gateway.url, gateway.key) as made:
        yield made


def uploaded(client: Client, path: Path, text: str) -> str:
    path.write_text(text)
    return client.files.add(path).id


def wait(client: Client, store: str, file: str) -> None:
    """Ask again and again, as any client of OpenAI's does: there is nothing to wait on."""
    while client.vector_stores.file(store, file).status == "in_progress":
        client.health()


def test_files_of_a_batch_stand_in_the_order_in_which_they_were_named(client: Client, tmp_path: Path) -> None:
    one = client.vector_stores.create("ordered", model="echo")
    files = [uploaded(client, tmp_path / f"{n}.txt", f"star {n}") for n in range(12)]
    client.vector_stores.add_batch(one.id, files)
    assert [file.id for file in client.vector_stores.files(one.id, order="asc").data] == files


def test_all_of_it(client: Client, tmp_path: Path) -> None:
    stores = client.vector_stores
    one = stores.create("sky", model="echo", days=7, metadata={"a": "b"})
    assert (one.name, one.metadata, one.expires_after and one.expires_after.days) == ("sky", {"a": "b"}, 7)
    changed = stores.modify(one.id, name="stars")
    assert (changed.name, changed.metadata, changed.expires_at is not None) == ("stars", {"a": "b"}, True)
    assert stores.modify(one.id, days=3, metadata={}).metadata == {}
    files = [uploaded(client, tmp_path / f"{n}.txt", f"star {n}" * 100) for n in range(3)]
    stores.add(one.id, files[0], attributes={"n": 1}, size=200, overlap=50)
    batch = stores.add_batch(one.id, files[1:])
    for file in files:
        wait(client, one.id, file)
    assert stores.batch(one.id, batch.id).status == "completed"
    assert stores.cancel_batch(one.id, batch.id).status == "cancelled"
    assert [file.id for file in stores.files(one.id, order="asc", status="completed").data] == files
    first = stores.file(one.id, files[0])
    assert first.chunking_strategy["static"] == {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50}
    parts = [part.text for part in stores.passages(one.id, files[0]).data]
    assert len(parts) == first.passages == 4
    assert "".join([parts[0], *(part[50:] for part in parts[1:])]) == "star 0" * 100
    assert stores.set_attributes(one.id, files[0], {"n": 2}).attributes == {"n": 2.0}
    wanted = {"type": "gte", "key": "n", "value": 2}
    found = stores.search(one.id, ["star", "moon"], results=50, filters=wanted)
    assert {result.file_id for result in found.data} == {files[0]}
    assert stores.search(one.id, "star 1" * 100, threshold=0.99).data[0].file_id == files[1]
    assert stores.take_out(one.id, files[0]).deleted
    assert one.id in [store.id for store in stores.list(limit=5).data]
    assert stores.remove(one.id).deleted
    with pytest.raises(NotFound, match="there is no vector store"):
        stores.get(one.id)


async def test_awaited(gateway: Served) -> None:
    async with AsyncClient(gateway.url, gateway.key) as client:
        one = await client.vector_stores.create("sky", model="echo")
        assert (await client.vector_stores.get(one.id)).version == 0
        assert (await client.vector_stores.search(one.id, "x", version=0)).data == []
        with pytest.raises(BadRequest, match="no embedding model is deployed"):
            await client.vector_stores.create("sky")
