"""What this machine has, as far as that is known, and which replica has taken what of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from terascope.core.config import DeploymentConfig
from terascope.core.errors import ConfigError
from terascope.core.models import ModelVersion

_GB = 1e9
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Hardware:
    """GPUs by the names that CUDA has for them, bytes of memory of each and of the machine; 0 and () are not known."""

    gpus: tuple[str, ...] = ()
    gpu_bytes: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Need:
    """What a replica takes: `gpus` of its own, or a part of one (`shares`); bytes of weights in all, on those or here.

    Weights are the least that it takes: caches and activations come to them.
    """

    gpus: int = 0
    shares: bool = False
    weights: int = 0

    @property
    def on_gpu(self) -> bool:
        """Whether its weights are on GPUs."""
        return bool(self.gpus)


@dataclass(slots=True)
class _Taken:
    need: Need
    gpus: tuple[str, ...]


@dataclass(slots=True)
class Node:
    """This machine: gives each replica its GPUs, and says when there is no room. What is not known is not checked."""

    hardware: Hardware = field(default_factory=Hardware)
    _taken: dict[str, _Taken] = field(default_factory=dict)
    _waiting: dict[str, tuple[Need, Callable[[], None]]] = field(default_factory=dict)

    def need(self, deployment: DeploymentConfig, version: ModelVersion, environment: Mapping[str, str]) -> Need:
        """What a replica of `deployment` takes here; an engine whose `environment` chooses GPUs chose for itself."""
        if deployment.engine not in ("torch", "vllm"):
            return Need()
        weights = sum(one.size for one in version.files if one.path.endswith(_WEIGHTS))
        if not self.hardware.gpus or deployment.device.startswith("cpu"):
            return Need(weights=weights)
        if VISIBLE in environment or deployment.device.startswith("cuda:"):
            return Need()
        if deployment.engine == "torch":
            return Need(1, shares=True, weights=weights)
        return Need(deployment.layout.devices, weights=weights)

    def check(self, name: str, need: Need) -> None:
        """Raise `ConfigError`, with the arithmetic, when a replica never fits here, even alone."""
        have = self.hardware
        if need.gpus > len(have.gpus) > 0:
            raise ConfigError(
                f"deployment {name}: a replica takes {need.gpus} GPUs (tensor x pipeline x data), and this machine has "
                f"{len(have.gpus)}; choose a smaller `layout`, or a `site`"
            )
        if need.on_gpu and need.weights > need.gpus * have.gpu_bytes > 0:
            raise ConfigError(
                f"deployment {name}: its weights take {_gb(need.weights)}, and {need.gpus} GPUs of "
                f"{_gb(have.gpu_bytes)} have {_gb(need.gpus * have.gpu_bytes)}; spread it over more GPUs with `layout`"
            )
        if not need.on_gpu and need.weights > have.memory_bytes > 0:
            raise ConfigError(
                f"deployment {name}: its weights take {_gb(need.weights)}, and this machine has "
                f"{_gb(have.memory_bytes)} of memory; choose a smaller model, or a `site`"
            )

    def take(self, replica_id: str, need: Need, wake: Callable[[], None]) -> tuple[str, ...] | str:
        """Give a replica what it needs until `free`: return its GPUs, or say what is lacking.

        Then `wake` is called when something is free again. Who waits longest is not passed by others of its kind.
        """
        before = (name for name, (other, _) in self._waiting.items() if other.on_gpu == need.on_gpu)
        passes = need != Need() and next(before, replica_id) != replica_id
        lacking = self._lacking(need)
        if lacking or passes:
            self._waiting[replica_id] = (need, wake)
            return lacking or "waits behind another replica for room on this machine"
        self._waiting.pop(replica_id, None)
        gpus = tuple(sorted(self._free(need), key=self._load)[: need.gpus])
        self._taken[replica_id] = _Taken(need, gpus)
        self._wake()
        return gpus

    def free(self, replica_id: str) -> None:
        """A replica has ended, or waits no more; idempotent."""
        gone = self._taken.pop(replica_id, None) or self._waiting.pop(replica_id, None)
        if gone is not None:
            self._wake()

    def _wake(self) -> None:
        for _, wake in tuple(self._waiting.values()):
            wake()

    def _lacking(self, need: Need) -> str:
        """What there is too little of now, with the arithmetic; empty when it fits."""
        have, free = self.hardware, self._free(need)
        if need.on_gpu and len(free) < need.gpus:
            return f"waits for {need.gpus} of {len(have.gpus)} GPUs: {len(free)} have room, others run on the rest"
        used = sum(one.need.weights for one in self._taken.values() if not one.need.on_gpu)
        if not need.on_gpu and have.memory_bytes and used + need.weights > have.memory_bytes:
            return (
                f"waits for memory: its weights take {_gb(need.weights)}, those of replicas that run take {_gb(used)}, "
                f"and this machine has {_gb(have.memory_bytes)}"
            )
        return ""

    def _free(self, need: Need) -> list[str]:
        """The GPUs that have room for it, each for its part."""
        part = need.weights // max(1, need.gpus)
        return [gpu for gpu in self.hardware.gpus if self._has_room(gpu, need, part)]

    def _has_room(self, gpu: str, need: Need, part: int) -> bool:
        on_it = [one.need for one in self._taken.values() if gpu in one.gpus]
        if not on_it:
            return True
        shared = need.shares and all(one.shares for one in on_it)
        most = self.hardware.gpu_bytes
        return shared and (not most or self._load(gpu) + part <= most)

    def _load(self, gpu: str) -> int:
        return sum(one.need.weights for one in self._taken.values() if gpu in one.gpus)


def _gb(count: int) -> str:
    return f"{count / _GB:,.1f} GB"
