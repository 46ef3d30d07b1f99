"""The table of a replica's states is what the source allows."""

import re
from pathlib import Path

from terascope.core.states import REPLICA_TRANSITIONS

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "replicas.md"
_ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| ?([^|]*)\|$", re.MULTILINE)


def test_every_state_and_transition_is_told() -> None:
    told = {status: set(re.findall(r"`(\w+)`", then)) for status, then in _ROW.findall(PAGE.read_text())}
    assert told == {status.value: {then.value for then in after} for status, after in REPLICA_TRANSITIONS.items()}
