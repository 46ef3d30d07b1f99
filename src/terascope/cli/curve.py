"""A loss curve: as lines of the terminal, and as a picture."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from terascope.core.errors import BadRequest, ConfigError
from terascope.protocol.tuning_views import JobEvent

_ENDINGS = (".png", ".svg")
_TRAINED, _HELD_OUT = "·", "o"
Points = Sequence[tuple[int, float]]


@dataclass(slots=True)
class Curve:
    """The losses of a job by step: of the steps, and of the held-out lines."""

    trained: list[tuple[int, float]] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)
    total: int = 0

    def take(self, events: Iterable[JobEvent]) -> "Curve":
        """Take the losses that `events` tell of, in their order."""
        for one in events:
            if one.type == "metrics":
                self.total = int(one.data.get("total_steps", self.total))
                for name, points in (("train_loss", self.trained), ("valid_loss", self.held_out)):
                    if name in one.data:
                        points.append((int(one.data["step"]), float(one.data[name])))
        return self

    def lines(self, width: int = 60, height: int = 10) -> list[str]:
        """The curve as text, `height` lines and an axis; empty while there is nothing to show."""
        points = [*self.trained, *self.held_out]
        if not points:
            return []
        low, high = min(loss for _, loss in points), max(loss for _, loss in points)
        last = max(self.total, *(step for step, _ in points), 1)
        rows = [[" "] * width for _ in range(height)]
        for mark, some in ((_TRAINED, self.trained), (_HELD_OUT, self.held_out)):
            for step, loss in some:
                row = round((high - loss) / (high - low) * (height - 1)) if high > low else height - 1
                rows[row][round(step / last * (width - 1))] = mark
        names = [f"{high:.3f}", *[""] * (height - 2), f"{low:.3f}"]
        drawn = [f"{name:>8} |{''.join(row).rstrip()}" for name, row in zip(names, rows, strict=True)]
        axis = f"{'':8} +{'-' * width}"
        below = f"{'':9} step 0{f'{last}':>{width - 6}}"
        return [*drawn, axis, below, f"{'':9} {_TRAINED} training loss   {_HELD_OUT} held-out loss"]

    def draw(self, path: Path, title: str) -> None:
        """Draw it into `path`. Raises as `check_ending`, `BadRequest` also when there is nothing to draw."""
        check_ending(path)
        if not self.trained:
            raise BadRequest("there is no loss to draw yet; wait for the first step", param="plot")
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ConfigError("plots need matplotlib; run `pip install 'terascope[plot]'`") from None
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="loss of learned tokens (nats)", title=title)
        axes.plot(*zip(*self.trained, strict=True), label="training", alpha=0.7)
        if self.held_out:
            axes.plot(*zip(*self.held_out, strict=True), label="held out", marker="o")
        axes.legend()
        figure.savefig(path, dpi=150)


def check_ending(path: Path) -> None:
    """Raise `BadRequest` unless a picture can be written there by its name."""
    if path.suffix not in _ENDINGS:
        raise BadRequest(f"{path} must end in {' or '.join(_ENDINGS)}", param="plot")
