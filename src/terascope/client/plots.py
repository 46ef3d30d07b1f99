"""Pictures of traces. Each function draws into the axes it is given, or makes a figure, and returns the axes.

Needs matplotlib (`pip install 'terascope[plot]'`); nothing of it is changed globally. `axes.figure` is the figure,
which a notebook shows and `savefig` writes. Colours are those of maps that readers with impaired colour vision tell
apart: `viridis` for sizes, `RdBu` for signed numbers, white at zero.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from terascope.client.trace_results import TracedPrompt
from terascope.client.values import TraceArray, needed
from terascope.core.errors import BadRequest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCH = 0.28  # of a cell without text
_TEXT_INCH = 0.85  # of a cell with a token's text
_LONGEST = 12  # characters of a token that are shown


def plot_logit_lens(
    prompt: TracedPrompt,
    texts: Mapping[int, str],
    pattern: str = "blocks.*.residual.post",
    *,
    axes: "Axes | None" = None,
) -> "Axes":
    """Draw what the model would say if it ended after each layer: its likeliest token, coloured by its probability.

    `prompt` has the captures `pattern`, reduced by {"logit_lens": k}: `PATTERN.tokens` and
    `PATTERN.log_probabilities`, [token, rank] for each layer. `texts` are those of the tokens by id
    (`client.words.texts`); a token without one is shown by its number. Layers go up, tokens of the prompt to the right.
    Raises `BadRequest` when there are no such captures.
    """
    np = needed("numpy")
    tokens = prompt.stack(f"{pattern}.tokens")
    ids = tokens.numpy()[..., 0]
    probabilities = np.exp(prompt.stack(f"{pattern}.log_probabilities").numpy()[..., 0])
    axes = axes or _new(ids.shape, _TEXT_INCH, _INCH)
    _heat(axes, probabilities, "probability of the likeliest token", low=0.0, high=1.0, upward=True)
    for (layer, place), one in np.ndenumerate(ids):
        shade = "black" if probabilities[layer, place] > 0.5 else "white"
        axes.text(place, layer, shown(texts.get(int(one), str(one))), ha="center", va="center", color=shade, fontsize=9)
    _name_columns(axes, _labels(tokens, "token", ids.shape[1]), "token of the prompt")
    _name_rows(axes, list(tokens.labels.get("layer", range(len(ids)))), "after layer")
    return axes


def plot_attention(attention: TraceArray, head: int, *, axes: "Axes | None" = None) -> "Axes":
    """Draw how much each token looks at each token before it, in one head.

    `attention` is a capture of `blocks.L.attention.probabilities`, [token, head, key]; rows of the picture are tokens
    that look, columns those that are looked at. Raises `BadRequest` for another shape or a head that is not there.
    """
    if len(attention.shape) != 3 or not 0 <= head < attention.shape[1]:
        raise BadRequest(
            f"{attention.name} is {attention.described}; it must be [token, head, key] and have head {head}"
        )
    weights = attention.numpy(_kind(attention))[:, head]
    axes = axes or _new(weights.shape, _INCH, _INCH)
    _heat(axes, weights, "attention", low=0.0, high=1.0)
    _name_columns(axes, _labels(attention, "key", weights.shape[1]), "looks at")
    _name_rows(axes, _labels(attention, "token", weights.shape[0]), "token")
    axes.set_title(f"{attention.name}, head {head}", fontsize=9)
    return axes


def plot_attribution(attribution: TraceArray, *, label: str = "attribution", axes: "Axes | None" = None) -> "Axes":
    """Draw signed numbers: bars for those of one axis ([token]), a map for two ([layer, token] or [token, head]).

    `attribution` is such as `gradient/embeddings`, or a stack of layers; `label` says what the numbers are. Layers and
    heads go up, tokens to the right. Raises `BadRequest` for another number of axes.
    """
    numbers = attribution.numpy(_kind(attribution))
    if numbers.ndim == 1:
        return _bars(attribution, numbers, label, axes)
    if numbers.ndim != 2:
        raise BadRequest(f"{attribution.name} is {attribution.described}; a map needs two axes, such as [layer, token]")
    names = attribution.axes or ("", "")
    if names[0] == "token":
        numbers, names = numbers.T, (names[1], names[0])
    axes = axes or _new(numbers.shape, _INCH, _INCH)
    most = float(abs(numbers).max(initial=0.0)) or 1.0
    _heat(axes, numbers, label, low=-most, high=most, upward=True, colours="RdBu")
    _name_columns(axes, _labels(attribution, names[1], numbers.shape[1]), names[1])
    _name_rows(axes, _labels(attribution, names[0], numbers.shape[0]), names[0])
    return axes


def shown(text: str) -> str:
    """A token's text so that one sees where it begins: a space as `␣`, line ends by name, long ones cut."""
    visible = text.replace("\n", "\\n").replace("\t", "\\t").replace(" ", "␣").replace("$", r"\$")
    return visible if len(visible) <= _LONGEST else visible[: _LONGEST - 1] + "…"


def _new(shape: Sequence[int], width: float, height: float) -> "Axes":
    """Axes of a figure of their own, large enough for that many rows and columns; pyplot does not know it."""
    needed("matplotlib")
    from matplotlib.figure import Figure

    rows, columns = shape
    size = (min(24.0, max(4.5, 2.2 + width * columns)), min(24.0, max(3.0, 1.6 + height * rows)))
    return Figure(figsize=size, layout="constrained").add_subplot()


def _heat(
    axes: "Axes", numbers: Any, label: str, *, low: float, high: float, upward: bool = False, colours: str = "viridis"
) -> None:
    origin = "lower" if upward else "upper"
    image = axes.imshow(numbers, cmap=colours, vmin=low, vmax=high, aspect="auto", origin=origin)  # type: ignore[arg-type] # one of two words
    axes.figure.colorbar(image, ax=axes, label=label)


def _bars(one: TraceArray, numbers: Any, label: str, axes: "Axes | None") -> "Axes":
    axes = axes or _new((9, len(numbers)), _INCH * 1.4, _INCH)
    axes.bar(range(len(numbers)), numbers, color=["#2166ac" if number >= 0 else "#b2182b" for number in numbers])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel(label)
    axis = one.axes[0] if one.axes else ""
    _name_columns(axes, _labels(one, axis, len(numbers)), axis)
    return axes


def _labels(one: TraceArray, axis: str, side: int) -> list[str | int]:
    """What stands along an axis: its labels where it has some, else numbers."""
    return list(one.labels.get(axis, range(side)))


def _name_columns(axes: "Axes", labels: Sequence[str | int], title: str) -> None:
    texts = [shown(one) if isinstance(one, str) else str(one) for one in labels]
    upright = max(map(len, texts), default=0) > 2
    axes.set_xticks(range(len(texts)), texts, rotation=90 if upright else 0, fontsize=9)
    axes.set_xlabel(title)


def _name_rows(axes: "Axes", labels: Sequence[str | int], title: str) -> None:
    texts = [shown(one) if isinstance(one, str) else str(one) for one in labels]
    axes.set_yticks(range(len(texts)), texts, fontsize=9)
    axes.set_ylabel(title)


def _kind(one: TraceArray) -> str | None:
    """The type in which numpy gets it: it has no bfloat16."""
    return "float32" if one.dtype == "BF16" else None
