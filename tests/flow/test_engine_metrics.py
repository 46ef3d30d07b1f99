"""The metrics of engines on real sockets, read through a whole gateway."""

from pathlib import Path

import httpx

from terascope.engines.worker.metrics import Metrics
from terascope.testing.between import MODEL, OURS, SAME, Between, between
from terascope.testing.exposition import families
from terascope.testing.gateway import Served

UP = "terascope_engine_up"


async def _read(through: Between) -> str:
    answer = await through.http.get("/metrics/engines", headers={"Authorization": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return answer.text


def _replicas(through: Between) -> dict[str, str]:
    """The model of each replica."""
    return {replica.id: replica.row.model for replica in through.gateway.services.fleet.ready()}


async def test_all_replicas_are_in_one_text(tmp_path: Path) -> None:
    async with between(tmp_path, engines=2) as through:
        first, second = through.engines
        worker = Metrics()
        worker.step(prompt=7, made=3, plan_s=0.1, compute_s=0.2, choose_s=0.1)
        first.metrics = worker.text().decode()
        second.metrics = '# TYPE vllm:tokens_total counter\nvllm:tokens_total{model_name="m",replica="own"} 5\n'
        told, replicas = families(await _read(through)), _replicas(through)
    assert sorted(replicas.values()) == sorted([MODEL, MODEL, SAME, OURS])
    assert {one.labels["replica"]: one.labels["model"] for one in told[UP].samples} == replicas
    made = [one for one in told["terascope_engine_tokens_total"].samples if one.labels["kind"] == "completion"]
    assert sorted((one.labels["model"], one.value) for one in made) == sorted(
        (model, 3) for model in (MODEL, SAME, OURS)
    )
    [theirs] = told["vllm:tokens_total"].samples
    assert theirs.labels.pop("replica") in replicas
    assert (theirs.labels, theirs.value) == ({"model": MODEL, "model_name": "m", "exported_replica": "own"}, 5)


async def test_an_engine_that_talks_nonsense_or_nothing_is_down(tmp_path: Path) -> None:
    """And the next time it may be up again."""
    async with between(tmp_path, engines=2) as through:
        first, second = through.engines
        first.metrics, second.metrics = "<html>no such page</html>", None
        up = [one.value for one in families(await _read(through))[UP].samples]
        assert up == [0, 0, 0, 0]
        first.metrics, second.metrics = "a 1\n", "a 2\n"
        told = families(await _read(through))
        assert [one.value for one in told[UP].samples] == [1, 1, 1, 1]
        assert sorted(one.value for one in told["a"].samples) == [1, 1, 1, 2]


async def test_only_what_is_ready_is_asked(tmp_path: Path) -> None:
    async with between(tmp_path, ill="loads weights") as through:
        assert _replicas(through) == {}
        assert families(await _read(through))[UP].samples == []


def test_an_engine_without_metrics_is_up(echo: Served, http: httpx.Client) -> None:
    [replica] = echo.services.fleet.ready()
    told = families(http.get("/metrics/engines").text)
    assert list(told) == [UP]
    assert [(one.labels, one.value) for one in told[UP].samples] == [
        ({"model": replica.row.model, "replica": replica.id}, 1)
    ]
