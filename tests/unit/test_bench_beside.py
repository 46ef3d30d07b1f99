"""The loads of the benchmark `fairness`: what is asked, when, and what the figures are taken from."""

import itertools
import json
from pathlib import Path

import pytest
from harness import beside, systems, tokens
from harness.beside import Arrivals, Clients, Kind, Taken, Target
from harness.load import Answer
from harness.processes import Failed
from harness.systems import Place, Server

URGENT = {"X-Terascope-QOS": "urgent"}
KIND = Kind(5, 3, URGENT)


def _answer(started: int, *events: tuple[int, bytes]) -> Answer:
    return Answer(started, 200, [at for at, _ in events], [part for _, part in events])


def _prompts(target: Target, number: int, count: int = 50) -> list[tuple[int, ...]]:
    asked = itertools.islice(target.requests(KIND, number), count)
    return [tuple(json.loads(one.partition(b"\r\n\r\n")[2])["prompt"]) for one in asked]


def test_no_two_prompts_are_alike_and_a_seed_gives_the_same_ones() -> None:
    server, words = Server("http://127.0.0.1:1"), range(100, 40_000)
    first, second = (Target(server, "m", words, seed) for seed in (1, 2))
    all_ = [*_prompts(first, -1), *_prompts(first, 0), *_prompts(first, 1), *_prompts(second, 0)]
    assert len(set(all_)) == len(all_) == 200
    assert {len(one) for one in all_} == {5}
    assert _prompts(Target(server, "m", words, 1), 0) == _prompts(first, 0)


def test_a_request_has_its_headers() -> None:
    head, _, body = tokens.request(Server("http://host:7", "key"), "m", [1, 2], 3, headers=URGENT).partition(
        b"\r\n\r\n"
    )
    assert b"X-Terascope-QOS: urgent" in head.split(b"\r\n")
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    assert json.loads(body)["max_tokens"] == 3


def test_the_first_token_is_not_the_first_byte() -> None:
    waited = _answer(1_000_000, (2_000_000, b": waiting\n\n"), (5_000_000, b"data: {}\n\n"))
    assert Taken(arrived=[waited]).firsts_ms == [4.0]


def test_answers_count_as_far_as_they_lie_within_the_span() -> None:
    event = b"data: {}\n\n"
    half = _answer(0, (5, event), (15, event))
    whole = _answer(0, (10, event), (19, event))
    outside = _answer(0, (1, event), (20, event))
    assert Taken((10, 20), asked=[half, whole, outside]).answers_per_s() == 1.5 / 10e-9


@pytest.mark.slow
def test_both_loads_through_a_gateway(tmp_path: Path) -> None:
    config = {"deployments": [{"model": "echo", "engine": "echo", "launcher": "inprocess"}]}
    with systems.terascope_with(config, Place(None, tmp_path)) as server:
        target = Target(server, "echo", range(100, 200), 1)
        taken = beside.measure(target, arrivals=Arrivals(KIND, 200.0, 40), clients=Clients(KIND, 3), settle_s=1.0)
        assert len(taken.firsts_ms) == 40
        assert all(0 < one < 5000 for one in taken.firsts_ms)
        assert taken.answers_per_s() > 0
        alone = beside.measure(target, clients=Clients(KIND, 2), seconds=0.5)
        assert (alone.arrived, alone.answers_per_s() > 0) == ([], True)
        with pytest.raises(Failed, match="not whole"):
            beside.measure(Target(server, "nobody", range(100, 200), 1), arrivals=Arrivals(KIND, 200.0, 4))
