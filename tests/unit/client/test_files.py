"""Files by both clients, asked of a real gateway."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from terascope.client import AsyncClient, Client
from terascope.core.errors import BadRequest, Conflict, GatewayUnreachable, NotAllowed, NotFound
from terascope.testing.gateway import Served

DATA = os.urandom(2_500_000)
Answering = Callable[[bytes], str]


def test_a_file_up_and_down(gateway: Served, tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(DATA)
    with Client(gateway.url, gateway.key) as client:
        made = client.files.add(tmp_path / "in.bin", "arrays", lasts_s=3600)
        assert (made.filename, made.purpose, made.bytes) == ("in.bin", "arrays", len(DATA))
        assert client.files.get(made.id) == made
        assert client.files.list(purpose="arrays").data == [made]
        with client.content(made.id, 10, 20) as pieces:
            assert b"".join(pieces) == DATA[10:20]
        with client.content(made.id, len(DATA) - 5) as pieces:
            assert b"".join(pieces) == DATA[-5:]
        client.save_file(made.id, tmp_path / "out.bin")
        assert (tmp_path / "out.bin").read_bytes() == DATA
        assert client.files.remove(made.id).deleted
        with pytest.raises(NotFound, match="there is no file"), client.content(made.id):
            pass
        with pytest.raises(NotFound):
            client.save_file(made.id, tmp_path / "none")
    assert {path.name for path in tmp_path.iterdir()} == {"in.bin", "out.bin"}


async def test_the_client_that_is_awaited(gateway: Served, tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(DATA)
    async with AsyncClient(gateway.url, gateway.key) as client:
        made = await client.files.add(str(tmp_path / "in.bin"))
        async with client.content(made.id, 0, 1) as pieces:
            assert b"".join([piece async for piece in pieces]) == DATA[:1]
        await client.save_file(made.id, tmp_path / "out.bin")
        assert (tmp_path / "out.bin").read_bytes() == DATA
        assert (await client.files.remove(made.id)).deleted
        with pytest.raises(NotFound):
            await client.save_file(made.id, tmp_path / "none")


def test_what_cannot_be(gateway: Served, tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(b"x")
    with Client(gateway.url, gateway.key) as client:
        with pytest.raises(BadRequest, match="cannot read"):
            client.files.add(tmp_path / "none")
        with pytest.raises(BadRequest, match="did you mean `batch`"):
            client.files.add(tmp_path / "in.bin", "bach")
        with pytest.raises(NotAllowed, match="may not use the project 'nowhere'"):
            client.files.list(project="nowhere")
        made = client.files.add(tmp_path / "in.bin")
        with pytest.raises(Conflict, match="cannot write"):
            client.save_file(made.id, tmp_path / "none" / "out")
        with pytest.raises(BadRequest, match="after `start`"), client.content(made.id, 5, 5):
            pass


@pytest.mark.parametrize("tag", ["", f'"{"0" * 64}"'])
def test_content_that_comes_otherwise_is_not_saved(answering: Answering, tmp_path: Path, tag: str) -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-length: 1\r\netag: {tag}\r\nconnection: close\r\n\r\nx"
    otherwise = pytest.raises(GatewayUnreachable, match="did not come as it was kept")
    with Client(answering(head.encode()), "key") as client, otherwise:
        client.save_file("file_1", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_content_that_is_cut_is_not_saved(answering: Answering, tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\nx"
    with Client(answering(head), "key") as client, pytest.raises(GatewayUnreachable):
        client.save_file("file_1", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
