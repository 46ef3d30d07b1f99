"""What engines tell of themselves becomes one text, whatever it is that they tell."""

import asyncio
import logging

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest

from terascope.core.errors import EngineUnreachable
from terascope.core.states import ReplicaStatus
from terascope.engines.contract import Endpoint, Launch
from terascope.engines.echo.adapter import EchoEngine
from terascope.fleet.replica import Replica
from terascope.gateway.engine_metrics import ANSWER_S, UP, Told, engine_metrics, merged
from terascope.store.replicas import ReplicaRow
from terascope.testing.clock import SimulatedLoop
from terascope.testing.exposition import Series, families, series
from terascope.testing.small_engine import small_deployment

VLLM = """\
# HELP vllm:num_requests_running Number of requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama"} 3.0
# HELP vllm:prompt_tokens_total Number of prefill tokens.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="meta-llama/Llama"} 40.0
# HELP vllm:prompt_tokens_created Number of prefill tokens.
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0",model_name="meta-llama/Llama"} 1.7e+09
"""


def told(text: str | None, replica: str = "replica_1", model: str = "m@1") -> Told:
    return Told(model, replica, text)


def merge(*texts: str | None) -> str:
    """What replicas `r0`, `r1`, ... that told `texts` become; checked to be what Prometheus takes."""
    text = merged(told(one, f"r{n}") for n, one in enumerate(texts)).decode()
    families(text)
    return text


def up(text: str) -> dict[str, float]:
    return {sample.labels["replica"]: sample.value for sample in families(text)[UP].samples}


def lines(text: str) -> list[str]:
    """All but what the gateway itself says."""
    return [line for line in text.splitlines() if UP not in line]


def test_replicas_share_families_and_differ_in_labels() -> None:
    text = merged([told(VLLM, "r0"), told(VLLM.replace(" 3.0", " 5.0"), "r1", "other@2")]).decode()
    running = families(text)["vllm:num_requests_running"]
    assert (running.type, running.documentation) == ("gauge", "Number of requests.")
    own = {"engine": "0", "model_name": "meta-llama/Llama"}
    assert [(one.labels, one.value) for one in running.samples] == [
        (own | {"model": "m@1", "replica": "r0"}, 3),
        (own | {"model": "other@2", "replica": "r1"}, 5),
    ]
    assert f'{UP}{{model="other@2",replica="r1"}} 1.0' in text
    assert families(text)["vllm:prompt_tokens_total"].type == "counter"
    assert families(text)["vllm:prompt_tokens_created"].type == "gauge"


def test_labels_of_ours_rename_those_of_the_engine() -> None:
    text = merge('x{model="a",replica="b",exported_replica="c",model_name="d"} 1\n')
    [sample] = families(text)["x"].samples
    assert sample.labels == {
        "model": "m@1",
        "replica": "r0",
        "exported_model": "a",
        "exported_replica": "c",
        "exported_exported_replica": "b",
        "model_name": "d",
    }


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("# HELP a b\n# TYPE a counter\na 3\n", ["# HELP a b", "# TYPE a untyped", 'a{model="m@1",replica="r0"} 3.0']),
        ("a 3\n", ["# HELP a ", "# TYPE a untyped", 'a{model="m@1",replica="r0"} 3.0']),
        ("# TYPE a untyped\na 3\n", ["# HELP a ", "# TYPE a untyped", 'a{model="m@1",replica="r0"} 3.0']),
        ("# TYPE a info\na 3\n", ["# HELP a ", "# TYPE a untyped", 'a{model="m@1",replica="r0"} 3.0']),
        ("a 3 1700000000000\n", ["# HELP a ", "# TYPE a untyped", 'a{model="m@1",replica="r0"} 3.0 1700000000000']),
        ("# TYPE a_total counter\n", ["# HELP a_total ", "# TYPE a_total counter"]),
        (r'a{b="\"\\\n}"} NaN', ["# HELP a ", "# TYPE a untyped", r'a{b="\"\\\n}",model="m@1",replica="r0"} NaN']),
    ],
    ids=["short counter", "bare", "untyped", "not of this format", "timestamp", "no series yet", "escapes"],
)
def test_names_survive(theirs: str, ours: list[str]) -> None:
    assert lines(merge(theirs)) == ours


def test_histograms_and_summaries_stay_whole() -> None:
    registry = CollectorRegistry()
    Histogram("h", "H", ["k"], registry=registry, buckets=(1, 2)).labels("v").observe(1.5)
    Summary("s", "S", registry=registry).observe(2)
    text = merge(generate_latest(registry).decode())
    assert (families(text)["h"].type, families(text)["s"].type) == ("histogram", "summary")
    assert 'h_bucket{k="v",le="2.0",model="m@1",replica="r0"} 1.0' in lines(text)
    assert 's_sum{model="m@1",replica="r0"} 2.0' in lines(text)


@pytest.mark.parametrize("first", [0, 1])
def test_engines_that_differ_in_a_type_agree_on_none(first: int) -> None:
    both = ["# TYPE a_total counter\na_total 1\n", "# HELP a_total said\n# TYPE a_total gauge\na_total 2\n"]
    text = merge(both[first], both[1 - first])
    family = families(text)["a_total"]
    assert (family.type, family.documentation) == ("unknown", "said")
    assert sorted(one.value for one in family.samples) == [1, 2]


def test_a_series_that_is_told_twice_is_written_once() -> None:
    assert lines(merge("a 1\nb 2\na 3\n")) == [
        "# HELP a ", "# TYPE a untyped", 'a{model="m@1",replica="r0"} 1.0',
        "# HELP b ", "# TYPE b untyped", 'b{model="m@1",replica="r0"} 2.0',
    ]  # fmt: skip


def test_whether_an_engine_is_up_is_ours_to_say() -> None:
    text = merge(f"# TYPE {UP} counter\n{UP} 0\na 1\n", "")
    assert up(text) == {"r0": 1, "r1": 1}
    assert families(text)[UP].type == "gauge"
    assert len(families(text)["a"].samples) == 1


@pytest.mark.parametrize(
    "text",
    ["<html>", "a 1\nb", "# TYPE a weird\na 1\n", 'a{" } 1', f"a 1{'0' * 400}", "a 1 nan", "a 1 inf", "a 1\na{"],
)
def test_what_cannot_be_read_is_left_out_and_logged(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        whole = merge(text, VLLM)
    assert up(whole) == {"r0": 0, "r1": 1}
    assert {sample.labels["replica"] for one in families(whole).values() for sample in one.samples} == {"r0", "r1"}
    assert all(UP in line for line in whole.splitlines() if '"r0"' in line)
    [logged] = caplog.records
    assert "replica r0 cannot be read" in logged.getMessage()


@given(st.lists(st.text(), max_size=3), st.text(alphabet='ab_#{}="\\ \n1.-eTYPHLcounter', max_size=60))
@example(["# TYPE x counter\nx_total 1\nx 2\n", "x_total 1"], "x 1")
def test_no_text_of_an_engine_spoils_the_others(texts: list[str], nearly: str) -> None:
    whole = merged(told(one, f"r{n}") for n, one in enumerate([*texts, nearly, VLLM])).decode()
    alone = series(merged([told(VLLM, f"r{len(texts) + 1}")]).decode())
    assert alone.items() <= series(whole).items()


names = st.from_regex(r"[a-z]{1,3}", fullmatch=True)
values = st.floats(min_value=0, allow_nan=False)


@st.composite
def told_texts(draw: st.DrawFn) -> str:
    """What an engine tells that uses Prometheus' own library."""
    registry = CollectorRegistry()
    label = draw(st.sampled_from(["model", "replica", "model_name", "exported_model"]))
    for name in draw(st.sets(names, max_size=5)):
        match draw(st.integers(0, 2)):
            case 0:
                Counter(f"c_{name}", name, [label], registry=registry).labels(draw(st.text())).inc(draw(values))
            case 1:
                Gauge(f"g_{name}", name, [label], registry=registry).labels(draw(st.text())).set(draw(values))
            case _:
                Histogram(f"h_{name}", name, [label], registry=registry).labels(draw(st.text())).observe(draw(values))
    return generate_latest(registry).decode()


@given(st.lists(told_texts(), max_size=4))
def test_every_series_of_every_engine_is_there_once(texts: list[str]) -> None:
    whole = merge(*texts)
    assert up(whole) == {f"r{n}": 1 for n in range(len(texts))} or not texts
    assert len(series(whole)) == sum(len(series(one)) for one in texts) + len(texts)
    for n, one in enumerate(texts):
        ours = {("replica", f"r{n}"), ("model", "m@1")}
        mine = {key: value for key, value in series(whole).items() if ours <= key[1] and key[0] != UP}
        assert _by_label_values(mine, ours) == _by_label_values(series(one), set())


def _by_label_values(every: Series, without: set[tuple[str, str]]) -> list[tuple[str, list[str], float]]:
    """Each series by its name and the values of its labels, whatever the labels are called."""
    return sorted(
        (name, sorted(text for _, text in labels - without), value) for (name, labels), value in every.items()
    )


class Telling(EchoEngine):
    """Tells `text`, or raises it, after `seconds` of the loop's time; without them never."""

    def __init__(self, text: str | EngineUnreachable, seconds: float | None = 0) -> None:
        super().__init__()
        self._text = text
        self._seconds = seconds

    async def metrics(self) -> str:
        if self._seconds is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(self._seconds)
        if isinstance(self._text, EngineUnreachable):
            raise self._text
        return self._text


def replica(name: str, engine: EchoEngine) -> Replica:
    row = ReplicaRow(name, "small", "small@1", "echo", "local", ReplicaStatus.READY)
    return Replica(row, Launch(*small_deployment()), Endpoint("unix:/nowhere"), engine)


def test_engines_are_asked_at_once_and_not_waited_for_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    engines = {
        "quick": Telling("a 1\n"),
        "slow": Telling("a 2\n", ANSWER_S - 0.1),
        "slow_too": Telling("a 3\n", ANSWER_S - 0.1),
        "silent": Telling("a 4\n", None),
        "lost": Telling(EngineUnreachable("connection refused")),
    }

    async def work() -> tuple[str, float]:
        text = await engine_metrics(replica(name, engine) for name, engine in engines.items())
        return text.decode(), asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner, caplog.at_level(logging.WARNING):
        text, took_s = runner.run(work())
    assert took_s == pytest.approx(ANSWER_S)
    assert up(text) == {"quick": 1, "slow": 1, "slow_too": 1, "silent": 0, "lost": 0}
    assert {one.labels["replica"]: one.value for one in families(text)["a"].samples} == {
        "quick": 1, "slow": 2, "slow_too": 3,
    }  # fmt: skip
    assert sorted(one.getMessage() for one in caplog.records) == [
        "replica lost did not tell its metrics: connection refused",
        "replica silent did not tell its metrics within 3 s",
    ]


async def test_without_replicas_there_is_a_text_all_the_same() -> None:
    assert (await engine_metrics(())).decode().splitlines() == [
        f"# HELP {UP} Whether the engine told its metrics.",
        f"# TYPE {UP} gauge",
    ]
