"""What is counted of each replica, and that nothing is kept of those that are gone."""

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from terascope.core.config import DeploymentConfig
from terascope.core.models import ModelVersion, Task
from terascope.core.runs import RunRecord
from terascope.core.states import Outcome, ReplicaStatus
from terascope.engines.contract import Endpoint, Launch
from terascope.engines.remote.adapter import KIND
from terascope.fleet.replica import Replica
from terascope.gateway.metrics import Metrics
from terascope.gateway.replica_metrics import ReplicaMetrics
from terascope.store.replicas import ReplicaRow

_VERSION = ModelVersion("m", "1", "abc", "remote:m", "", Task.GENERATE, 0)


def replica(name: str, status: ReplicaStatus = ReplicaStatus.READY) -> Replica:
    launch = Launch(DeploymentConfig(model="m", engine="remote", url="http://127.0.0.1:9"), _VERSION)
    endpoint = Endpoint("http://127.0.0.1:9")
    row = ReplicaRow(name, "wide", "m@1", "remote", "inprocess", status)
    return Replica(row, launch, endpoint, KIND.connect(launch, endpoint))


def ended(name: str, outcome: Outcome = Outcome.COMPLETED) -> RunRecord:
    return RunRecord(
        "req_1", 0.0, "completions", model="m@1", replica=name, outcome=outcome, prompt_tokens=3, completion_tokens=5
    )


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Values by the sample's name and its labels, in the order of their names."""
    families = text_string_to_metric_families(metrics.text().decode())
    found = (sample for family in families for sample in family.samples if "deployment" in sample.labels)
    return {(one.name, "/".join(value for _, value in sorted(one.labels.items()))): one.value for one in found}


def test_each_replica_counts_for_itself() -> None:
    one, other = replica("a"), replica("b", ReplicaStatus.STARTING)
    one.occupy(2)
    metrics = Metrics()
    metrics.watch(dict, lambda: (one, other))
    for record in (ended("a"), ended("a", Outcome.FAILED), ended("")):
        metrics.count(record)
    told = samples(metrics)
    assert told["terascope_deployment_replicas", "wide/ready"] == 1
    assert told["terascope_deployment_replicas", "wide/starting"] == 1
    assert told["terascope_deployment_replicas", "wide/failed"] == 0
    assert told["terascope_replica_in_flight", "wide/m@1/a"] == 2
    assert told["terascope_replica_requests_total", "wide/m@1/failed/a"] == 1
    assert told["terascope_replica_tokens_total", "wide/completion/m@1/a"] == 10
    assert told["terascope_replica_tokens_total", "wide/prompt/m@1/b"] == 0


def test_what_is_gone_is_forgotten() -> None:
    living = [replica("first")]
    counts = ReplicaMetrics(lambda: tuple(living))
    CollectorRegistry().register(counts)
    for number in range(100):
        living[:] = [replica(f"r{number}")]
        counts.count(ended(f"r{number}"))
    assert [counts.of(f"r{number}").requests for number in (0, 98, 99)] == [0, 0, 1]
