"""The tiny model as what is trained beside."""

from collections.abc import Callable
from pathlib import Path

import pytest

from terascope.core.tuning import TuningMethod
from terascope.engines.torch.tuning.base import Base, load_base
from terascope.engines.torch.tuning.job import TuningJob


@pytest.fixture
def load_tiny(tiny_dir: Path) -> Callable[[], Base]:
    """Loads the tiny model anew: PEFT changes the one it is given."""
    job = TuningJob("job", TuningMethod.LORA, "tiny@1", "d" * 64, str(tiny_dir), "")
    return lambda: load_base(job, lambda _: None)


@pytest.fixture
def base(load_tiny: Callable[[], Base]) -> Base:
    return load_tiny()
