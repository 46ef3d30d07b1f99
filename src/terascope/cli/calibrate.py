"""`terascope calibrate`: the planner's constants, found on a GPU of this machine."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from terascope.cli.connection import DataDir, local_data_dir
from terascope.cli.show import Json, clean, print_json, table
from terascope.core.errors import BadRequest, ConfigError
from terascope.planner.calibration import Calibration, LayerCheck, check_layers, load_calibration, read_timings, stored
from terascope.planner.calibration import calibrate as find_constants
from terascope.planner.constants import constants

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_PROGRAM = "terascope.engines.torch.calibrate"
_GRACE_S = 60.0
"""For a process that starts torch, and one that is ended."""


@app.command()
def calibrate(
    device: Annotated[str, typer.Option(help="The GPU: cuda:0, cuda:1, ...")] = "cuda:0",
    seconds: Annotated[float, typer.Option(min=10, max=3600, help="Longest time that it may take.")] = 90.0,
    gpu: Annotated[str, typer.Option(help="Name of the GPU in `plan --list systems`; default: the card's own.")] = "",
    timings: Annotated[
        Path | None, typer.Option(help="Take these timings, made elsewhere, instead of timing anything.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Time a GPU at the shapes of a model of a trillion parameters, and keep the constants for `terascope plan`.

    The GPU should be idle, and have 48 GB free for whole layers with experts; what does not fit is left out.
    """
    timed = read_timings(timings) if timings else _timed(device, seconds)
    found = find_constants(timed, gpu)
    where = place(local_data_dir(data_dir), found.gpu)
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text(stored(timed, found), encoding="utf-8")
    if as_json:
        layers = [asdict(one) for one in check_layers(timed, found)]
        print_json({"file": str(where), **asdict(found), "layers": layers})
        return
    _show(found)
    _show_layers(check_layers(timed, found))
    print(f"\n{clean(found.about)}; kept in {where}")


def place(data_dir: Path, gpu: str) -> Path:
    """Where the constants of a kind of GPU are kept."""
    return data_dir / "planner" / f"{gpu}.json"


def known(asked: str, names: set[str]) -> Mapping[str, Calibration]:
    """The calibrations that `plan --constants` means, by GPU: kept ones of these GPUs, none, or those of a file.

    Raises `BadRequest` where a file is no calibration, or one of a GPU that is not planned for.
    """
    if asked == "shipped":
        return {}
    if asked:
        found = load_calibration(Path(asked))
        if found.gpu not in names:
            raise BadRequest(f"{asked} is of {found.gpu}, which is not what is planned for", param="constants")
        return {found.gpu: found}
    data_dir = local_data_dir(None)
    return {name: load_calibration(path) for name in names if (path := place(data_dir, name)).exists()}


def _timed(device: str, seconds: float) -> Mapping[str, Any]:
    """Time this machine's GPU in a process of its own: this one loads no torch."""
    if find_spec("torch") is None:
        raise ConfigError("the torch engine is not installed here; run `pip install 'terascope[torch]'`")
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "timings.json"
        command = [sys.executable, "-m", _PROGRAM, "--device", device, "--seconds", str(seconds), "--out", str(out)]
        try:
            ended = subprocess.run(command, stdout=sys.stderr, timeout=seconds + _GRACE_S, check=False)
        except subprocess.TimeoutExpired:
            raise ConfigError(f"{device} does not answer: nothing was found") from None
        if not out.exists():
            raise ConfigError(f"{device} could not be timed (exit status {ended.returncode}); the lines above say why")
        return read_timings(out)


def _show(found: Calibration) -> None:
    shipped = constants()
    rows = (
        (name, f"{one.value:.3f}", f"{one.low:.3f}-{one.high:.3f}", str(one.timings), f"{getattr(shipped, name):.3f}")
        for name, one in found.found.items()
    )
    table(("constant", "found", "range", "timings", "shipped"), rows, empty="too few timings for any constant")


def _show_layers(layers: Sequence[LayerCheck]) -> None:
    """Whole layers by torch's own kernels, which an engine's are faster than."""
    if not layers:
        return
    print("\nwhole layers, microseconds")
    rows = (
        (
            one.model,
            f"{one.tokens}",
            f"{one.context:,}",
            *(f"{1e6 * s:,.0f}" for s in (one.measured, one.found, one.shipped)),
        )
        for one in layers
    )
    table(("model", "tokens", "context", "measured", "predicted", "as shipped"), rows, empty="")
