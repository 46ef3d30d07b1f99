"""What the gateway stands on; put together by `terascope.cli.serve` and by tests."""

from dataclasses import dataclass

from terascope.access.access import Access
from terascope.access.artefacts import Artefacts
from terascope.catalog.catalog import Catalog
from terascope.core.clock import Clock
from terascope.core.config import Config
from terascope.files.files import Files
from terascope.fleet.deployments import Deployments
from terascope.fleet.fleet import Fleet
from terascope.gateway.metrics import Metrics
from terascope.inference.inference import Inference
from terascope.provenance.recorder import Recorder
from terascope.retrieval.retrieval import Retrieval
from terascope.tuning.tuning import Tuning


@dataclass(frozen=True, slots=True)
class Services:
    """The rooms, opened."""

    config: Config
    clock: Clock
    access: Access
    catalog: Catalog
    fleet: Fleet
    inference: Inference
    recorder: Recorder
    files: Files
    metrics: Metrics
    preparing: dict[str, str]
    """Deployments that the fleet does not have yet, or never will: name -> `starting` or `failed`."""
    artefacts: Artefacts
    deployments: Deployments
    tuning: Tuning
    retrieval: Retrieval

    def states(self) -> dict[str, str]:
        """The state of every deployment, by its name."""
        return self.preparing | self.fleet.states()
