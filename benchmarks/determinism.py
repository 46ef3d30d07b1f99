"""What the torch worker promises about repeated requests, measured: in float32, in bfloat16, and with `reproducible`.

    make bench NAME=determinism

SmolLM2-135M-Instruct through gateway and worker over HTTP, two threads. Prompts of about 30 to 300 tokens, each
answered greedily and at temperature 1 with a seed, 48 tokens with their log-probabilities. The answer that a request
gets alone (nothing else is running, no prefix is known) is compared with the one it gets

- `repeat`: alone once more; `hit`: alone, its prompt's beginning taken from the prefix cache (same `cache_salt`),
- `among_1`, `among_7`, `among_31`: beside so many others that come at the same moment and are of other lengths,
- `steps`: alone, by a worker that reads prompts in parts of 64 tokens, not 512 (another start, too).

Without and with `reproducible: true`; that never uses the prefix cache, so it has no `hit`. For each situation:

- `same_text`, `same_bits`: share of answers with the same text, and with the same log-probabilities to the last bit,
- `max_logprob_diff`: largest difference of a log-probability (nats), up to the first token that differs.

`same_text_DTYPE`, `same_bits_DTYPE` and `max_logprob_diff_DTYPE` are the worst over all situations, and
`..._reproducible_DTYPE` the same with `reproducible`. `reproducible_speed_DTYPE`: tokens/s of 8 reproducible answers at
once over those of 8 ordinary ones, 128 random tokens in, 64 out, median of interleaved bursts.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import aiohttp
from engine_cpu import SOURCE, THREADS, WORDS
from harness import install, processes, report, systems, tokens
from harness.engines import MODEL
from harness.processes import Failed
from harness.report import Target
from harness.systems import Place, Server

DTYPES, KINDS, SPEEDS = ("float32", "bfloat16"), ("ordinary", "reproducible"), "speed"
NEIGHBOURS = (1, 7, 31)
TOKENS, STEP_TOKENS, OTHER_STEP_TOKENS = 48, 512, 64
SPEED = {"at_once": 8, "prompt": 128, "tokens": 64, "bursts": 3}
SENTENCES = """\
The beam was lost twice during the night, and nobody could say why.
Write down what you see before you write down what you think it means.
In the third chapter the author compares two methods of measuring small forces.
Rivers carry more sediment in spring, when the snow of the mountains melts.
A good instrument is quiet: it adds nothing to what it shows.
The samples were kept at four degrees and measured within six hours.
Which of these explanations needs the fewest assumptions?
She counted the stars in the photograph by hand, and then a second time.
Copper conducts heat about twice as well as aluminium, at a price.
The program reads a table, removes the rows without a date, and sums the rest.
Old maps show an island there that no ship has ever found.
If the temperature falls below zero, the valve has to be opened first.
Most of the genome does not code for proteins, but it is not idle.
The committee met on Tuesday and agreed on nothing except the next meeting.
Light from the far side of the galaxy left it before there were people.
Every measurement has an error, and the error has one too.
He tuned the second string a little lower and listened again.
Bread dough rises faster in a warm kitchen, but it tastes better when it is slow.
The reaction is exothermic, so the flask must be cooled with ice.
Two clocks that agree may both be wrong, and then they are wrong together.
The library is open from nine to five, except on the last Friday of a month.
Plants close their pores at noon to save water, and grow less for it.
An error message should say what to do, not only what went wrong.
The bridge was built in 1874 and strengthened three times since.
""".splitlines()


@dataclass(frozen=True)
class Answer:
    """One answer: its text, its tokens, and their log-probabilities."""

    text: str
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    cached: int = 0
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Asked:
    """One request, but for what the situation adds."""

    prompt: str
    fields: dict[str, Any]


def prompts(count: int, first: int = 0) -> list[str]:
    """Texts of 2 to 20 sentences, each beginning with another."""
    sizes = [2 + round(number * 18 / max(1, count - 1)) for number in range(count)]
    return [" ".join(_sentences(first + number, size)) for number, size in enumerate(sizes)]


def _sentences(first: int, count: int) -> Iterator[str]:
    """`count` sentences, none of which any other prompt has at the same place."""
    return (SENTENCES[(first + 5 * number) % len(SENTENCES)] for number in range(count))


def asked(count: int) -> list[Asked]:
    """Every prompt greedily and with a seed."""
    ways: list[dict[str, Any]] = [{"temperature": 0}, {"temperature": 1}]
    return [
        Asked(prompt, way | {"seed": 1000 + number}) for number, prompt in enumerate(prompts(count)) for way in ways
    ]


def others(count: int) -> list[Asked]:
    """What fills up a group that is too small; of other lengths, and not compared."""
    return [Asked(prompt, {"temperature": 1, "seed": number}) for number, prompt in enumerate(prompts(count, 12))]


def compare(alone: Sequence[Answer], again: Sequence[Answer]) -> dict[str, float]:
    """How much the answers `again` are those had `alone`."""
    pairs = list(zip(alone, again, strict=True))
    return {
        "same_text": sum(a.text == b.text for a, b in pairs) / len(pairs),
        "same_bits": sum((a.tokens, a.logprobs) == (b.tokens, b.logprobs) for a, b in pairs) / len(pairs),
        "max_logprob_diff": max(difference(a, b) for a, b in pairs),
    }


def difference(one: Answer, other: Answer) -> float:
    """The largest difference between log-probabilities, up to the first token that differs."""
    most = 0.0
    for a, b, x, y in zip(one.tokens, other.tokens, one.logprobs, other.logprobs, strict=False):
        if a != b:
            break
        most = max(most, abs(x - y))
    return most


class Client:
    """Asks a server for whole answers."""

    def __init__(self, server: Server, session: aiohttp.ClientSession, kind: str) -> None:
        self._server, self._session = server, session
        self._extra = {"reproducible": True} if kind == "reproducible" else {}
        self._salts = 0

    def salt(self) -> str:
        """A `cache_salt` that has not been used: nothing is found in the prefix cache under it."""
        self._salts += 1
        return f"{id(self)}-{self._salts}"

    async def ask(self, one: Asked, salt: str = "") -> Answer:
        """Return the answer to `one`. Raises Failed when it is not whole."""
        body: dict[str, Any] = {
            "model": MODEL, "prompt": one.prompt, "max_tokens": TOKENS, "logprobs": 0, "ignore_eos": True,
            "cache_salt": salt or self.salt(), **one.fields, **self._extra,
        }  # fmt: skip
        headers = {"Authorization": f"Bearer {self._server.key}"}
        async with self._session.post(f"{self._server.url}/v1/completions", json=body, headers=headers) as reply:
            found = await reply.json()
            if reply.status != 200 or found["usage"]["completion_tokens"] != body["max_tokens"]:
                raise Failed(f"an answer was not whole (status {reply.status}): {found}")
        said, usage = found["choices"][0], found["usage"]
        own = said["logprobs"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return Answer(said["text"], tuple(own["tokens"]), tuple(own["token_logprobs"]), cached, usage["prompt_tokens"])

    async def alone(self, all_: Sequence[Asked]) -> list[Answer]:
        """One after the other."""
        return [await self.ask(one) for one in all_]

    async def hit(self, all_: Sequence[Asked]) -> list[Answer]:
        """The second of two answers under one salt. Raises Failed when it took nothing from the prefix cache."""
        found = []
        for one in all_:
            salt = self.salt()
            await self.ask(Asked(one.prompt, {"max_tokens": 1}), salt)
            found.append(await self.ask(one, salt))
        if not all(answer.cached for answer in found):
            raise Failed("a prompt that was asked a second time was not found in the prefix cache")
        return found

    async def among(self, all_: Sequence[Asked], neighbours: int) -> list[Answer]:
        """Groups of so many neighbours and one; the last is filled up with others."""
        size, found = neighbours + 1, []
        for group in zip_longest(*[iter(all_)] * size):
            own = [one for one in group if one is not None]
            answers = await asyncio.gather(*map(self.ask, [*own, *others(size - len(own))]))
            found += answers[: len(own)]
        return found


Situations = dict[str, list[Answer]]
Way = Callable[[Sequence[Asked]], Awaitable[list[Answer]]]


async def situations(server: Server, kind: str, all_: Sequence[Asked], *, first: bool) -> Situations:
    """The answers in every situation of the `first` start, or alone in the other."""
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        client = Client(server, session, kind)
        await client.among(all_[:2], 1)  # warms up
        if not first:
            return {"steps": await _told(kind, "steps", client.alone(all_))}
        ways: dict[str, Way] = {"alone": client.alone, "repeat": client.alone}
        if kind == "ordinary":
            ways["hit"] = client.hit
        ways |= {f"among_{n}": partial(client.among, neighbours=n) for n in NEIGHBOURS}
        return {name: await _told(kind, name, way(all_)) for name, way in ways.items()}


async def _told(kind: str, name: str, answers: Awaitable[list[Answer]]) -> list[Answer]:
    start = time.perf_counter()
    found = await answers
    install.say(f"  {kind}, {name}: {time.perf_counter() - start:.0f} s")
    return found


@contextmanager
def running(dtype: str, step_tokens: int) -> Iterator[Server]:
    """Gateway and worker."""
    deployment = {
        "model": MODEL, "engine": "torch", "dtype": dtype, "threads": THREADS, "max_batch": max(NEIGHBOURS) + 1,
        "options": {"step_tokens": str(step_tokens)},
    }  # fmt: skip
    config = {"models": {MODEL: {"source": SOURCE}}, "deployments": [deployment]}
    with tempfile.TemporaryDirectory() as scratch, systems.terascope_with(config, Place(None, Path(scratch))) as server:
        yield server


def speeds(server: Server) -> dict[str, float]:
    """Tokens/s of each kind, `SPEED['at_once']` at once."""
    taken: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for number, kind in report.interleaved(SPEED["bursts"], KINDS):
        burst = tokens.prompts(number, SPEED["at_once"], SPEED["prompt"], WORDS)
        fields = {"reproducible": True} if kind == "reproducible" else {"cache_salt": f"speed-{number}"}
        found = tokens.burst(server, MODEL, burst, SPEED["tokens"], fields)
        taken[kind].append({"tokens_8": found["made"] / found["seconds"]})
    return {kind: report.medians(rounds)["tokens_8"] for kind, rounds in taken.items()}


def take(dtype: str, parts: Sequence[str], count: int) -> dict[str, Any]:
    """All that is measured of `dtype`: for each kind in `parts` the situations, and the speeds of both."""
    all_ = asked(count)
    kinds = [kind for kind in KINDS if kind in parts]
    found: dict[str, Situations] = {kind: {} for kind in kinds}
    taken: dict[str, Any] = {}
    for step_tokens in (STEP_TOKENS, OTHER_STEP_TOKENS) if kinds else (STEP_TOKENS,):
        install.say(f"{dtype}, step_tokens {step_tokens} (load {os.getloadavg()[0]:.1f})")
        first = step_tokens == STEP_TOKENS
        with running(dtype, step_tokens) as server:
            if first and SPEEDS in parts:
                taken["tokens_8"] = speeds(server)
            for kind in kinds:
                found[kind] |= asyncio.run(situations(server, kind, all_, first=first))
    for kind, answers in found.items():
        alone = answers.pop("alone")
        taken[kind] = {name: compare(alone, again) for name, again in answers.items()}
        taken["prompt_tokens"] = {"least": min(_lengths(alone)), "most": max(_lengths(alone))}
    return taken


def _lengths(answers: Sequence[Answer]) -> list[int]:
    return [one.prompt_tokens for one in answers]


def result(taken: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """The benchmark's keys: the worst of all situations, and the cost."""
    worst: dict[str, Callable[[Iterator[float]], float]] = {"same_text": min, "same_bits": min, "max_logprob_diff": max}
    found: dict[str, float | None] = {}
    for dtype, own in taken.items():
        for kind in (kind for kind in KINDS if kind in own):
            name = dtype if kind == "ordinary" else f"{kind}_{dtype}"
            for figure, choose in worst.items():
                found[f"{figure}_{name}"] = choose(one[figure] for one in own[kind].values())
        speed = own.get("tokens_8", {})
        found[f"reproducible_speed_{dtype}"] = report.ratio(speed.get("reproducible"), speed.get("ordinary"))
    return found


def targets(dtypes: Sequence[str], parts: Sequence[str]) -> list[Target]:
    """What must hold of what is measured."""
    ordinary = [Target("same_text_float32", "=", 1)] if "float32" in dtypes and "ordinary" in parts else []
    others = [Target(f"same_bits_reproducible_{dtype}", "=", 1) for dtype in dtypes if "reproducible" in parts]
    return ordinary + others


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--dtypes", default=",".join(DTYPES), help="which to measure, by comma")
    ask.add_argument("--parts", default=",".join((*KINDS, SPEEDS)), help="what to measure, by comma")
    ask.add_argument("--prompts", type=int, default=12, help="how many; each is asked greedily and with a seed")
    a = ask.parse_args()
    dtypes, parts = a.dtypes.split(","), a.parts.split(",")
    print(report.machine(), flush=True)
    taken = {dtype: take(dtype, parts, a.prompts) for dtype in dtypes}
    figures = ["same_text", "same_bits", "max_logprob_diff"]
    rows = [
        [dtype, kind, situation, *(one[figure] for figure in figures)]
        for dtype, own in taken.items()
        for kind in KINDS
        for situation, one in own.get(kind, {}).items()
    ]
    print(f"\n{report.table(['dtype', 'kind', 'situation', *figures], rows)}")
    report.finish("determinism", result(taken), targets(dtypes, parts), taken)


if __name__ == "__main__":
    processes.run("determinism", main)
