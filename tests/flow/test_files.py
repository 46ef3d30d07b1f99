"""`/v1/files` from outside: OpenAI's own client, curl, the SDK; ranges, limits, owners, clients that leave."""

import hashlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from terascope.core.config import FilesConfig
from terascope.testing.gateway import ECHO, Served, running_gateway
from terascope.testing.serve import ServeProcess

DATA = os.urandom(3_000_001)
SUM = hashlib.sha256(DATA).hexdigest()
MOST = 40_000_000


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    with running_gateway(replace(ECHO, files=FilesConfig(max_file_bytes=MOST, projects={"small": 1000}))) as served:
        yield served


@pytest.fixture
def http(gateway: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=60) as client:
        yield client


def upload(http: httpx.Client, data: bytes = DATA, name: str = "a.bin", **fields: str) -> dict[str, Any]:
    answer = http.post("/v1/files", data={"purpose": "user_data"} | fields, files={"file": (name, data)})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def there(gateway: Served) -> set[str]:
    """What the store has on the disk."""
    return {path.name for path in (gateway.data_dir / "files").iterdir()}


def test_openais_client(gateway: Served) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0)
    made = client.files.create(
        file=("räte.jsonl", DATA), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (made.object, made.bytes, made.filename, made.purpose) == ("file", len(DATA), "räte.jsonl", "batch")
    assert made.expires_at == pytest.approx(made.created_at + 3600, abs=1)
    others = [client.files.create(file=f"{number}".encode(), purpose="user_data").id for number in range(5)]
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == DATA
    assert [one.id for one in client.files.list(limit=2, purpose="user_data")] == others[::-1]  # over three pages
    assert [one.id for one in client.files.list(order="asc", purpose="batch")] == [made.id]
    page = client.files.list(limit=2, order="asc", after=others[0])
    assert ([one.id for one in page.data], page.has_more) == (others[1:3], True)
    for one in [made.id, *others]:
        assert client.files.delete(one).deleted
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        client.files.retrieve(made.id)
    assert there(gateway) == set()


def test_curl(gateway: Served, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)
    key = ["-sS", "-H", f"Authorization: Bearer {gateway.key}"]

    def curl(*arguments: str) -> str:
        done = subprocess.run(["curl", *key, *arguments], capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    made = json.loads(curl("-F", f"file=@{tmp_path}/in", "-F", "purpose=user_data", f"{gateway.url}/v1/files"))
    assert (made["bytes"], made["sha256"], made["filename"]) == (len(DATA), SUM, "in")
    url = f"{gateway.url}/v1/files/{made['id']}/content"
    curl("-o", f"{tmp_path}/out", "-r", "0-999999", url)
    curl("-o", f"{tmp_path}/out", "-C", "-", url)  # goes on where it was cut
    assert (tmp_path / "out").read_bytes() == DATA
    shown = curl("-D", "-", "-o", os.devnull, "-r", "5-", url)
    assert shown.startswith("HTTP/1.1 206")
    assert f"content-range: bytes 5-{len(DATA) - 1}/{len(DATA)}" in shown.lower()
    curl("-X", "DELETE", f"{gateway.url}/v1/files/{made['id']}")


def test_parts_of_the_content(http: httpx.Client) -> None:
    made = upload(http, name="a b.bin")
    path = f"/v1/files/{made['id']}/content"
    whole = http.get(path)
    assert (whole.status_code, whole.headers["etag"]) == (200, f'"{SUM}"')
    assert whole.headers["content-disposition"] == "attachment; filename*=UTF-8''a%20b.bin"
    for start, stop in ((0, 1), (999_999, 2_100_000), (len(DATA) - 1, len(DATA))):
        part = http.get(path, headers={"Range": f"bytes={start}-{stop - 1}", "If-Range": f'"{SUM}"'})
        assert (part.status_code, part.content) == (206, DATA[start:stop])
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"
    beyond = http.get(path, headers={"Range": f"bytes={len(DATA)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(DATA)}")
    assert http.get(path, headers={"If-None-Match": f'"{SUM}"'}).status_code == 304
    empty = upload(http, b"")
    assert http.get(f"/v1/files/{empty['id']}/content").content == b""
    for one in (made, empty):
        http.delete(f"/v1/files/{one['id']}")


@pytest.mark.parametrize(
    ("fields", "files", "status", "words"),
    [
        ({}, {"file": b"x"}, 400, "no `purpose`"),
        ({"purpose": "bach"}, {"file": b"x"}, 400, "did you mean `batch`"),
        ({"purpose": "batch_output"}, {"file": b"x"}, 400, "no purpose `batch_output`"),
        ({"purpose": "batch"}, {}, 400, "no multipart form"),
        ({"purpose": "batch"}, {"data": b"x"}, 400, "a file `data` besides"),
        ({"purpose": "batch", "colour": "red"}, {"file": b"x"}, 400, "a field `colour`"),
        ({"purpose": "batch"}, {"file": ("x" * 401, b"x")}, 400, "at most 400"),
        ({"purpose": "batch"}, {"file": bytes(MOST + 1)}, 413, "larger than 40,000,000 bytes"),
    ],
)
def test_what_is_refused_leaves_nothing(
    gateway: Served, http: httpx.Client, fields: dict[str, str], files: dict[str, Any], status: int, words: str
) -> None:
    answer = http.post("/v1/files", data=fields, files=files)
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert words in answer.json()["error"]["message"]
    assert there(gateway) == set()


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(gateway: Served) -> None:
    address = ("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\ncontent-length: 4294967296\r\n"
    )
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(f"{head}content-type: multipart/form-data; boundary=x\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_an_upload_of_unknown_length_ends_at_the_limit(gateway: Served, http: httpx.Client) -> None:
    def form() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(MOST // 1_000_000 + 5):
            yield bytes(1_000_000)

    answer = http.post("/v1/files", content=form(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413
    assert there(gateway) == set()


def test_a_client_that_leaves_in_the_middle(gateway: Served, http: httpx.Client) -> None:
    address = ("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\ncontent-length: 30000000\r\n"
    part = '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(f"{head}content-type: multipart/form-data; boundary=x\r\n\r\n{part}".encode())
        connection.sendall(bytes(5_000_000))
        until(lambda: any(name.endswith(".part") for name in there(gateway)))
    until(lambda: there(gateway) == set())
    assert http.get("/v1/files").json()["data"] == []


def until(condition: Any) -> None:
    """Another process decides when: look again and again."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_whose_files_they_are(gateway: Served, http: httpx.Client) -> None:
    for name in ("ocean", "climate"):
        http.post("/admin/v1/projects", json={"name": name}).raise_for_status()
    keys = {}
    for user, project in (("ada", "ocean"), ("bob", "ocean"), ("eve", "climate")):
        asked = {"name": user, "user": user, "project": project, "scopes": ["query"]}
        keys[user] = {"Authorization": f"Bearer {http.post('/admin/v1/keys', json=asked).json()['key']}"}
    with httpx.Client(base_url=gateway.url, headers=keys["ada"]) as ada:
        made = upload(ada)
    assert made["project"] == "ocean"
    url = f"{gateway.url}/v1/files/{made['id']}"
    assert httpx.get(url, headers=keys["bob"]).json() == made
    for method, path in (("GET", url), ("GET", f"{url}/content"), ("DELETE", url)):
        for headers in (keys["eve"], gateway.headers | {"X-Terascope-Project": "climate"}):
            hidden = httpx.request(method, path, headers=headers)
            missing = httpx.request(method, path.replace(made["id"], "file_none"), headers=headers)
            assert (hidden.status_code, missing.status_code) == (404, 404)
            assert (
                hidden.json()["error"]["message"].replace(made["id"], "file_none") == missing.json()["error"]["message"]
            )
    assert httpx.get(f"{gateway.url}/v1/files", headers=keys["eve"]).json()["data"] == []
    denied = httpx.get(f"{gateway.url}/v1/files", headers=keys["eve"] | {"X-Terascope-Project": "ocean"})
    assert denied.status_code == 403
    assert httpx.delete(url, headers=keys["bob"]).json() == {"id": made["id"], "object": "file", "deleted": True}


def test_a_project_has_room_for_so_much(gateway: Served, http: httpx.Client) -> None:
    http.post("/admin/v1/projects", json={"name": "small"}).raise_for_status()
    http.headers["X-Terascope-Project"] = "small"
    made = upload(http, bytes(900))
    refused = http.post("/v1/files", data={"purpose": "batch"}, files={"file": bytes(101)})
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "quota_exceeded")
    http.delete(f"/v1/files/{made['id']}").raise_for_status()
    upload(http, bytes(1000))
    http.patch("/admin/v1/projects/small", json={"closed": True}).raise_for_status()
    closed = http.post("/v1/files", data={"purpose": "batch"}, files={"file": b"x"})
    assert (closed.status_code, "closed" in closed.text) == (403, True)
    [left] = http.get("/v1/files").json()["data"]
    http.delete(f"/v1/files/{left['id']}").raise_for_status()


def test_content_that_is_gone(gateway: Served, http: httpx.Client) -> None:
    made = upload(http, b"x")
    (gateway.data_dir / "files" / made["id"]).unlink()
    answer = http.get(f"/v1/files/{made['id']}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_lost")
    assert http.delete(f"/v1/files/{made['id']}").status_code == 200


@pytest.mark.slow
def test_memory_does_not_grow_with_a_file(tmp_path: Path) -> None:
    """400 MB up and down through a gateway of its own process."""
    size = 400_000_000
    with ServeProcess(tmp_path) as process:
        process.ready()
        before = _memory(process)
        with (tmp_path / "large").open("wb") as file:
            file.truncate(size)
        with (tmp_path / "large").open("rb") as file:
            made = httpx.post(
                f"{process.url}/v1/files",
                data={"purpose": "user_data"},
                files={"file": file},
                headers=process.headers,
                timeout=120,
            ).json()
        assert made["bytes"] == size
        seen = 0
        with httpx.stream("GET", f"{process.url}/v1/files/{made['id']}/content", headers=process.headers) as answer:
            for chunk in answer.iter_raw():
                seen += len(chunk)
        assert seen == size
        assert _memory(process) - before < 60_000_000
        assert process.stop() == 0


def _memory(process: ServeProcess) -> int:
    """The most memory that the process has had, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024
