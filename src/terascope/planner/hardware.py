"""GPUs and clusters: what a GPU holds and computes, how GPUs reach each other, and what `4x8xH200` means."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from terascope.core.errors import BadRequest
from terascope.planner.library import load_data

_SPEC = re.compile(r"(?:(?P<nodes>\d+)x)?(?:(?P<gpus>\d+)x)?(?P<name>[^\s].*)\Z", re.IGNORECASE)
_GIGA, _TERA = 1e9, 1e12
_UNITS = ("bf16", "fp8", "fp4", "int8")
_MOST_GPUS = 1_000_000
_LARGEST_FILE = 1_000_000


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, tile or die: SI units, operations dense."""

    name: str
    memory: float
    """Bytes, as the driver reports them."""
    bandwidth: float
    """Bytes/s of its memory."""
    peaks: Mapping[str, float]
    """Operations/s of each unit it has: bf16 always, fp8, fp4 and int8 where there."""
    links: tuple[tuple[int, float], ...]
    """How many GPUs are reached at which rate, in bytes/s for each direction, from the nearest outwards."""
    node: int
    """GPUs in a node, as it is sold."""
    nic: float
    """Bytes/s of the network for each GPU and direction."""
    power: float
    """Watt at full load."""
    vendor: str
    price: float = 0.0
    """US dollars an hour; 0 where none is known."""
    arm: bool = False
    """Whether its host has Arm processors: container images differ."""
    source: str = ""

    def unit(self, wanted: tuple[str, ...]) -> str:
        """The first of `wanted` that it has."""
        return next((one for one in wanted if one in self.peaks), "bf16")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Nodes of one kind."""

    name: str
    nodes: int
    gpu: Gpu
    scheduler: str = ""
    """`slurm`, `pbs` or empty."""
    fabric: str = ""
    """`slingshot`, `infiniband` or empty: what the network is."""
    notes: str = ""
    source: str = ""

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.nodes * self.gpu.node

    @property
    def domain(self) -> int:
        """GPUs that reach each other without the network."""
        return max(self.gpu.node, self.gpu.links[-1][0] if self.gpu.links else 1)

    def link(self, gpus: int) -> tuple[float, bool]:
        """The rate between GPUs in a group of `gpus` in bytes/s, and whether the group needs the network."""
        for reach, rate in self.gpu.links:
            if gpus <= min(reach, self.domain):
                return rate, False
        return self.gpu.nic, True

    def with_nodes(self, nodes: int) -> "Cluster":
        """The same with another number of nodes."""
        return replace(self, nodes=nodes)


def find_gpu(name: str) -> Gpu:
    """Return the GPU called `name`. Raises `BadRequest` that says what is near."""
    found = _gpus().get(_key(name))
    if found is None:
        known = sorted({one.name for one in _gpus().values()} | set(_systems()))
        near = difflib.get_close_matches(name.upper(), known, 3) or known
        raise BadRequest(
            f"there is no GPU or system {name!r}; known are {', '.join(near)}; describe your own in a YAML file",
            param="on",
        )
    return found


def gpus() -> tuple[Gpu, ...]:
    """All GPUs that the planner knows."""
    return tuple({one.name: one for one in _gpus().values()}.values())


def systems() -> tuple[Cluster, ...]:
    """All research systems that the planner knows, each whole."""
    return tuple(_system(name, entry) for name, entry in _systems().items())


def parse_cluster(text: str) -> Cluster:
    """Return what `text` means: `4x8xH200` (nodes x GPUs x GPU), `8xH200`, `16xjupiter` (nodes of a system),
    `jupiter` (all of it), `16xmine.yaml`.

    Raises `BadRequest` that says how to write it.
    """
    match = _SPEC.match(text.strip())
    if not match:
        raise BadRequest(f"{text!r} is no cluster; write NODESxGPUSxGPU such as 4x8xH200", param="on")
    first, second, name = match["nodes"], match["gpus"], match["name"]
    if name.endswith((".yaml", ".yml")) or name.lower() in _systems():
        return _nodes_of(name, first, second, text)
    gpu = find_gpu(name)
    nodes, per_node = (int(first), int(second)) if second else (1, int(first or 1))
    cluster = Cluster(name=text.strip(), nodes=nodes, gpu=replace(gpu, node=per_node))
    return _sane(_with_links(cluster), text)


def _nodes_of(name: str, first: str | None, second: str | None, text: str) -> Cluster:
    if second:
        raise BadRequest(f"{text!r} says GPUs per node, but {name} has its own; write {first}x{name}", param="on")
    system = _from_file(Path(name)) if name.endswith((".yaml", ".yml")) else _system(name, _systems()[name.lower()])
    nodes = int(first) if first else system.nodes
    if nodes > system.nodes:
        raise BadRequest(f"{system.name} has {system.nodes} nodes, not {nodes}", param="on")
    return _sane(replace(system, name=text.strip(), nodes=nodes), text)


def _sane(cluster: Cluster, text: str) -> Cluster:
    if not 1 <= cluster.gpus <= _MOST_GPUS:
        raise BadRequest(f"{text!r} has {cluster.gpus} GPUs; the planner takes 1 to {_MOST_GPUS}", param="on")
    return cluster


def _with_links(cluster: Cluster) -> Cluster:
    """Smaller nodes than those sold have the same links among fewer GPUs."""
    gpu = cluster.gpu
    whole = find_gpu(gpu.name)
    reach = whole.links[-1][0]
    if reach <= whole.node and gpu.node > whole.node:
        raise BadRequest(
            f"nodes of {gpu.name} have at most {whole.node} GPUs; write {-(-gpu.node // whole.node)}x{whole.node}x"
            f"{gpu.name} for {gpu.node} of them",
            param="on",
        )
    limit = gpu.node if reach <= whole.node else reach
    return replace(cluster, gpu=replace(gpu, links=tuple((min(n, limit), rate) for n, rate in gpu.links)))


def _from_file(path: Path) -> Cluster:
    """A system of one's own: the keys of data/systems.yaml; `gpu` is a name, or the keys of data/hardware.yaml."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise BadRequest(f"{path} is too large to describe a cluster", param="on")
        entry = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror}", param="on") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} is not YAML: {error}", param="on") from None
    if not isinstance(entry, dict):
        raise BadRequest(f"{path} is not a mapping; it needs nodes, gpu, node and nic", param="on")
    return _system(path.stem, entry, str(path))


_SYSTEM_KEYS = {"site", "nodes", "gpu", "node", "nic", "scheduler", "fabric", "source", "notes"}


def _system(name: str, entry: Mapping[str, Any], where: str = "data/systems.yaml") -> Cluster:
    if unknown := set(entry) - _SYSTEM_KEYS:
        raise BadRequest(
            f"{where} has {', '.join(sorted(map(str, unknown)))}; known are {sorted(_SYSTEM_KEYS)}", param="on"
        )
    given = entry.get("gpu")
    gpu = _gpu(str(given.get("name", name)), given, where) if isinstance(given, dict) else find_gpu(str(given))
    node = _number(entry, "node", where, gpu.node)
    nic = _number(entry, "nic", where, gpu.nic * gpu.node / _GIGA) * _GIGA / node
    scheduler = str(entry.get("scheduler", ""))
    if scheduler not in ("", "slurm", "pbs"):
        raise BadRequest(f"{where} has scheduler {scheduler!r}; it is slurm, pbs or left out", param="on")
    links = tuple((min(reach, int(node)) if reach <= gpu.node else reach, rate) for reach, rate in gpu.links)
    return Cluster(
        name=name,
        nodes=int(_number(entry, "nodes", where)),
        gpu=replace(gpu, node=int(node), nic=nic, links=links),
        scheduler=scheduler,
        fabric=str(entry.get("fabric", "")),
        notes=str(entry.get("notes", "")),
        source=str(entry.get("source", "")),
    )


_GPU_KEYS = {"name", "memory", "bandwidth", *_UNITS, "links", "node", "nic", "power", "also", "vendor", "price", "arm"}


def _gpu(name: str, entry: Mapping[str, Any], where: str = "data/hardware.yaml") -> Gpu:
    if unknown := set(entry) - _GPU_KEYS - {"source"}:
        raise BadRequest(
            f"{where}: gpu has {', '.join(sorted(map(str, unknown)))}; known are {sorted(_GPU_KEYS)}", param="on"
        )
    links = entry.get("links") or [[1, 0]]
    if not all(isinstance(one, list) and len(one) == 2 for one in links):
        raise BadRequest(f"{where}: links are pairs of GPUs reached and 1e9 bytes/s, such as [[8, 450]]", param="on")
    return Gpu(
        name=name,
        memory=_number(entry, "memory", where) * _GIGA,
        bandwidth=_number(entry, "bandwidth", where) * _TERA,
        peaks={unit: _number(entry, unit, where) * _TERA for unit in _UNITS if unit == "bf16" or unit in entry},
        links=tuple((int(reach), float(rate) * _GIGA) for reach, rate in links),
        node=int(_number(entry, "node", where)),
        nic=_number(entry, "nic", where) * _GIGA,
        power=_number(entry, "power", where),
        vendor=str(entry.get("vendor", "nvidia")),
        price=_number(entry, "price", where, 0.0),
        arm=bool(entry.get("arm", False)),
        source=str(entry.get("source", "")),
    )


def _number(entry: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or (value == 0 and default is None):
        raise BadRequest(f"{where}: {key} is {value!r}; it must be a number above 0 (units: see the docs)", param="on")
    return float(value)


def _key(name: str) -> str:
    return name.upper().replace("_", "-")


@cache
def _gpus() -> Mapping[str, Gpu]:
    found: dict[str, Gpu] = {}
    for name, entry in load_data("hardware.yaml").items():
        gpu = _gpu(name, entry)
        found |= dict.fromkeys(map(_key, (name, *entry.get("also", ()))), gpu)
    return found


@cache
def _systems() -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = load_data("systems.yaml")
    return found
