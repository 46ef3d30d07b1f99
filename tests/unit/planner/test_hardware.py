"""GPUs, systems, and how a cluster is written."""

from pathlib import Path

import pytest
import yaml

from terascope.core.errors import BadRequest
from terascope.planner import find_gpu, gpus, parse_cluster, systems

MINE = {
    "nodes": 6, "node": 4, "nic": 100, "scheduler": "slurm", "source": "our own measurements",
    "gpu": {"name": "X1", "memory": 96, "bandwidth": 3.0, "bf16": 500, "links": [[4, 200]], "node": 4, "nic": 25,
            "power": 500},
}  # fmt: skip


def test_every_figure_has_a_source() -> None:
    assert [one.name for one in gpus() if len(one.source) < 10] == []
    assert [one.name for one in systems() if len(one.source) < 10] == []


def test_the_research_systems_are_there() -> None:
    names = {one.name for one in systems()}
    assert names >= {
        "polaris", "sophia", "aurora", "frontier", "perlmutter", "alps", "jupiter", "leonardo", "lumi", "isambard-ai",
    }  # fmt: skip
    assert all(one.scheduler in ("slurm", "pbs") and one.fabric for one in systems())


def test_sizes_are_in_si_units() -> None:
    h200 = find_gpu("h200_sxm")
    assert (h200.memory, h200.bandwidth, h200.peaks["fp8"]) == (150.8e9, 4.8e12, 1979e12)
    assert h200.unit(("fp4", "bf16")) == "bf16"


@pytest.mark.parametrize(
    ("text", "nodes", "node", "gpu"),
    [
        ("4x8xH200", 4, 8, "H200"),
        ("8xH200", 1, 8, "H200"),
        ("H200", 1, 1, "H200"),
        ("2X4Xgb200", 2, 4, "GB200"),
        ("1x72xGB200", 1, 72, "GB200"),
        ("16xjupiter", 16, 4, "GH200"),
        ("aurora", 10624, 12, "PVC-TILE"),
    ],
)
def test_clusters(text: str, nodes: int, node: int, gpu: str) -> None:
    cluster = parse_cluster(text)
    assert (cluster.nodes, cluster.gpu.node, cluster.gpu.name) == (nodes, node, gpu)
    assert cluster.gpus == nodes * node


def test_links_reach_as_far_as_the_node_or_the_rack() -> None:
    assert parse_cluster("2x4xH200").link(4) == (450e9, False)
    assert parse_cluster("2x4xH200").link(8) == (50e9, True)
    assert parse_cluster("4x4xGB200").link(16) == (900e9, False)
    aurora = parse_cluster("2xaurora")
    assert [aurora.link(n)[0] for n in (2, 8)] == [185e9, 15e9]
    assert aurora.link(24) == (200e9 / 12, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no cluster; write NODESxGPUSxGPU"),
        ("4x8xH900", "no GPU or system 'H900'; known are H"),
        ("2x16xH200", "at most 8 GPUs; write 2x8xH200"),
        ("0xH200", "has 0 GPUs"),
        ("900000x8xH200", "the planner takes 1 to"),
        ("9000xjupiter", "has 5884 nodes, not 9000"),
        ("2x4xjupiter", "write 2xjupiter"),
        ("4xnowhere.yaml", "cannot read nowhere.yaml"),
    ],
)
def test_what_is_no_cluster(text: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message) as error:
        parse_cluster(text)
    assert error.value.param == "on"


def _write(path: Path, value: object) -> str:
    path.write_text(yaml.safe_dump(value))
    return str(path)


def test_a_system_of_one_s_own(tmp_path: Path) -> None:
    cluster = parse_cluster(f"2x{_write(tmp_path / 'mine.yaml', MINE)}")
    assert (cluster.nodes, cluster.gpus, cluster.gpu.name, cluster.scheduler) == (2, 8, "X1", "slurm")
    assert cluster.gpu.nic == 25e9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "has colour; known are"),
        ({"nodes": "many"}, "nodes is 'many'; it must be a number"),
        ({"scheduler": "cron"}, "scheduler 'cron'"),
        ({"gpu": "H900"}, "no GPU or system 'H900'"),
        ({"gpu": MINE["gpu"] | {"links": [3]}}, "links are pairs"),  # type: ignore[operator]
        ({"gpu": MINE["gpu"] | {"memory": -1}}, "memory is -1"),  # type: ignore[operator]
        ({"gpu": MINE["gpu"] | {"size": 1}}, "gpu has size"),  # type: ignore[operator]
    ],
)
def test_mistakes_in_it_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        parse_cluster(_write(tmp_path / "mine.yaml", MINE | change))


@pytest.mark.parametrize(("text", "message"), [("[1]", "is not a mapping"), ("{", "is not YAML")])
def test_files_that_are_no_system(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(BadRequest, match=message):
        parse_cluster(str(tmp_path / "mine.yaml"))
