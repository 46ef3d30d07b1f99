"""A gateway whose replica is a job of a real Slurm that opens no port: its agent dials out."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai
import pytest

from terascope.core.config import Config, DeploymentConfig, SiteConfig
from terascope.fleet.tunnel.gate import hashed
from terascope.testing.gateway import Served, serving
from terascope.testing.slurm import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slurm")]

TEXT = " ".join(f"word{number}" for number in range(400))


@dataclass
class Wire:
    """A TCP proxy before the gateway, which can be cut and kept cut."""

    to: int = 0
    port: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    made: int = 0
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open.is_set():
            writer.transport.abort()
            return
        self.made += 1
        there, back = await asyncio.open_connection("127.0.0.1", self.to)
        self.writers |= {writer, back}
        with suppress(OSError):
            await asyncio.gather(_copy(reader, back), _copy(there, writer))

    def cut(self) -> None:
        """Drop all that is under way, both ways, without a word."""
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def wired(directory: Path, **options: str) -> AsyncIterator[tuple[Served, Wire]]:
    """A gateway that its replica's agent reaches over a wire; ready on entry."""
    wire = Wire()
    proxy = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.port = proxy.sockets[0].getsockname()[1]
    site = SiteConfig(
        logs=str(directory / "shared"), gpus=False, poll_s=0.2, reach="tunnel", gateway=f"http://127.0.0.1:{wire.port}"
    )
    deployment = DeploymentConfig(model="echo", engine="echo", site="testing", options=options)
    config = Config(sites={"testing": site}, deployments=[deployment])
    async with proxy, serving(config, data_dir=directory / "data", wait=False) as served:
        wire.to = int(served.url.rpartition(":")[2])
        wire.open.set()
        await served.services.fleet.settled()
        yield served, wire
        wire.open.set()


def client(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0)


async def test_nothing_is_lost_when_the_wire_is_cut_in_mid_answer(slurm: SlurmCluster, tmp_path: Path) -> None:
    async with wired(tmp_path, delay_ms="5") as (served, wire), client(served) as ai:
        [replica] = served.services.fleet.ready()
        assert replica.row.url == f"tunnel:{replica.id}"
        [launch] = (tmp_path / "shared" / "launches").iterdir()
        assert "address" not in {path.name for path in launch.iterdir()}
        streams = [
            await ai.chat.completions.create(
                model="echo", stream=True, messages=[{"role": "user", "content": f"{number} {TEXT}"}]
            )
            for number in range(4)
        ]
        heard = ["" for _ in streams]

        async def hear(number: int) -> None:
            async for event in streams[number]:
                heard[number] += (event.choices[0].delta.content or "") if event.choices else ""
                if number == 0 and heard[0].endswith(("word40 ", "word41", " word150", "word300")):
                    wire.cut()

        await asyncio.gather(*(hear(number) for number in range(4)))
        assert heard == [f"{number} {TEXT}" for number in range(4)]
        assert wire.made >= 2


async def test_a_client_that_leaves_is_seen_by_the_engine_and_metrics_and_logs_come(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    async with wired(tmp_path, delay_ms="50") as (served, _), client(served) as ai:
        [replica] = served.services.fleet.ready()
        stream = await ai.chat.completions.create(
            model="echo", stream=True, messages=[{"role": "user", "content": TEXT}]
        )
        await anext(aiter(stream))
        await stream.close()
        await asyncio.wait_for(replica.idle(), 10)
        assert replica.id in await asyncio.to_thread(_got, f"{served.url}/metrics/engines", served)
        [launch] = (tmp_path / "shared" / "launches").iterdir()
        following = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "terascope", "deploy", "logs", "echo", "--follow", "--url", served.url,
            "--key", served.key, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert following.stdout
        with (launch / "output.log").open("a") as log:
            log.write("a line of the engine\n")
        async with asyncio.timeout(30):
            while b"a line of the engine" not in (line := await following.stdout.readline()):
                assert line
        with (launch / "output.log").open("a") as log:
            log.write("and another\n")
        async with asyncio.timeout(30):
            assert await following.stdout.readline() == b"and another\n"
        following.terminate()
        await following.wait()


def _got(url: str, served: Served) -> str:
    return httpx.get(url, headers=served.headers, timeout=30).text


async def test_a_stolen_token_opens_nothing_else(slurm: SlurmCluster, tmp_path: Path) -> None:
    async with wired(tmp_path) as (served, _):
        [replica] = served.services.fleet.ready()
        [launch] = (tmp_path / "shared" / "launches").iterdir()
        token = (launch / "environment").read_text().partition("TERASCOPE_AGENT_TOKEN=")[2].split()[0].strip("'")
        assert replica.row.agent_hash == hashed(token)
        other = await _agent(served, token, "other")
        assert (other[0], b"of another deployment" in other[1]) == (1, True)
        stranger = await _agent(served, "guessed", "echo")
        assert (stranger[0], b"does not know this token" in stranger[1]) == (1, True)
        async with httpx.AsyncClient(headers=served.headers) as http:
            [entry] = [
                one
                for one in (await http.get(f"{served.url}/admin/v1/audit")).json()["data"]
                if one["action"] == "agent.refused"
            ]
        assert (entry["target"], entry["details"]) == ("other", {"token_of": "echo"})
        assert entry["key_id"] == replica.id
        assert token not in str(entry)


async def _agent(served: Served, token: str, deployment: str) -> tuple[int | None, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "terascope", "agent", "--gateway", served.url, "--engine", "http://127.0.0.1:9",
        "--deployment", deployment, env={"TERASCOPE_AGENT_TOKEN": token, "PATH": ""}, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, complaint = await process.communicate()
    return process.returncode, complaint
