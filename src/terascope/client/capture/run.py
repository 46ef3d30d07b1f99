"""A capture from its first prompt to its last: several requests under way, what comes written in order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from terascope.client import AsyncClient
from terascope.client.capture.asking import Asking, Sleep
from terascope.client.capture.block import Block, Done
from terascope.client.capture.dataset import KINDS, Dataset
from terascope.client.capture.manifest import Manifest, alone
from terascope.client.capture.progress import Progress, Tell, silent
from terascope.client.capture.prompts import Prompt, PromptFile, digest
from terascope.client.capture.settings import Settings
from terascope.core.errors import BadRequest
from terascope.core.projects import Qos

BATCH_BYTES = 16 << 20
"""About how much one request brings: it is held until those before it are written."""
PART_BYTES = 64 << 20
"""How much is written at once; a capture that is killed loses no more."""
IN_FLIGHT_BYTES = 64 << 20
"""How much is under way at once, here, in the gateway and in the engine; a larger prompt goes alone."""
BATCH_PROMPTS = 64
_PART_PROMPTS = 4096


async def capture(
    client: AsyncClient,
    settings: Settings,
    prompts: str | Path,
    output: str | Path,
    *,
    in_flight: int = 4,
    batch_prompts: int = BATCH_PROMPTS,
    skip_failed: bool = False,
    qos: Qos = Qos.BATCH,
    project: str = "",
    tell: Tell = silent,
    part_bytes: int = PART_BYTES,
    sleep: Sleep = asyncio.sleep,
) -> Progress:
    """Bring what `settings` say of each line of `prompts` into the dataset `output`; return what is in it.

    `output` is a directory that ends with `.zarr`, `.parquet` or `.safetensors`. One that is there is continued: each
    prompt is in it exactly once, whatever was killed when. `in_flight` requests of up to `batch_prompts` prompts are
    under way at once; memory does not grow with the number of prompts. Prompts that fail end it, unless `skip_failed`;
    then the list of prompts says why. It is batch work, unless `qos` says otherwise, and `project` pays for it. On any
    raise and on cancellation what `tell` told is there for good, and asking again goes on from it.

    Raises `BadRequest` for prompts that are none (with the line), `Conflict` for an output that is something else, and
    what the gateway says.
    """
    directory = Path(output)
    if directory.suffix not in KINDS:
        raise BadRequest(f"the output must end with {', '.join(KINDS)}", param="output")
    file = PromptFile(Path(prompts))
    with alone(directory):
        manifest = await asyncio.to_thread(Manifest.load, directory, settings, directory.suffix)
        await asyncio.to_thread(file.check_beginning, manifest.read, manifest.sha256)
        headers = {"x-terascope-qos": str(qos)} | ({"x-terascope-project": project} if project else {})
        one = _Capture(Asking(client, settings, sleep, headers), file, directory, manifest)
        await one.run(in_flight, batch_prompts, skip_failed=skip_failed, tell=tell, part_bytes=part_bytes)
        return one.progress


@dataclass(frozen=True, slots=True)
class _Batch:
    """Prompts that go together, and about how many bytes they bring, at most."""

    prompts: list[Prompt]
    size: float


class _Capture:
    """One run over a file."""

    def __init__(
        self,
        asking: Asking,
        file: PromptFile,
        directory: Path,
        manifest: Manifest,
    ) -> None:
        self._asking, self._file, self._directory, self._manifest = asking, file, directory, manifest
        self._sum = digest(file.path, 0, manifest.read)

    @property
    def progress(self) -> Progress:
        """What is written."""
        now = self._manifest
        return Progress(now.prompts, now.failed, now.rows, now.bytes, now.read, self._file.size)

    async def run(self, in_flight: int, batch_prompts: int, *, skip_failed: bool, tell: Tell, part_bytes: int) -> None:
        """Bring everything that is not there yet."""
        now = self._manifest
        coming = self._file.read(now.read, number=now.prompts, line=now.line)
        first = next(coming, None)
        if first is None:
            return
        batches = await self._begin(first, coming, batch_prompts)
        dataset = await asyncio.to_thread(Dataset, self._directory, now)
        block = Block()
        async with aclosing(_in_order(self._asking, batches, in_flight)) as results:
            async for done in results:
                if done.error and not skip_failed:
                    await self._write(dataset, block, tell)
                    raise BadRequest(f"{self._file.path}, line {done.prompt.line}: {done.error}; --skip-failed goes on")
                block.add(done)
                if block.nbytes >= part_bytes or len(block.prompts) >= _PART_PROMPTS:
                    await self._write(dataset, block, tell)
                    block = Block()
        await self._write(dataset, block, tell)
        await asyncio.to_thread(dataset.end)

    async def _begin(self, first: Prompt, coming: Iterator[Prompt], most: int) -> Iterator[_Batch]:
        """Learn of the first prompt how much they bring, and which version the name means now."""
        model, tokens, size = await self._asking.estimate(first, self._manifest.model)
        if not self._manifest.model:
            self._manifest.model = model
            await asyncio.to_thread(self._manifest.save, self._directory)
        least = 0 if self._manifest.settings["tokens"] == "all" else size
        return _batches(first, coming, most, size / max(1, tokens), least)

    async def _write(self, dataset: Dataset, block: Block, tell: Tell) -> None:
        if not block.prompts:
            return
        last = block.prompts[-1].prompt
        self._sum = await asyncio.to_thread(digest, self._file.path, self._manifest.read, last.end, self._sum)
        await asyncio.to_thread(dataset.append, block, last.end, last.line, self._sum.hexdigest())
        tell(self.progress)


def _batches(first: Prompt, coming: Iterator[Prompt], most: int, token_bytes: float, least: float) -> Iterator[_Batch]:
    """Up to `most` prompts that go together: about `BATCH_BYTES` at `token_bytes` a token, `least` or more a prompt."""
    batch = _Batch([first], max(first.most_tokens * token_bytes, least))
    for one in coming:
        more = max(one.most_tokens * token_bytes, least)
        if batch.size + more > BATCH_BYTES or len(batch.prompts) >= most:
            yield batch
            batch = _Batch([], 0.0)
        batch = _Batch([*batch.prompts, one], batch.size + more)
    yield batch


async def _in_order(asking: Asking, batches: Iterator[_Batch], in_flight: int) -> AsyncGenerator[Done, None]:
    """What became of each prompt, in order, while `in_flight` requests or `IN_FLIGHT_BYTES` are under way."""
    tasks: deque[tuple[float, asyncio.Task[list[Done]]]] = deque()
    try:
        for batch in batches:
            while tasks and (len(tasks) >= in_flight or _size(tasks) + batch.size > IN_FLIGHT_BYTES):
                for done in await tasks[0][1]:
                    yield done
                tasks.popleft()
            tasks.append((batch.size, asyncio.create_task(asking.batch(batch.prompts))))
        while tasks:
            for done in await tasks[0][1]:
                yield done
            tasks.popleft()
    finally:
        for _, task in tasks:
            task.cancel()
        await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)


def _size(tasks: Iterable[tuple[float, object]]) -> float:
    return sum(size for size, _ in tasks)
