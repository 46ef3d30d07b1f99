"""What is known of servers that speak OpenAI's API, each with words of its own.

Only differences that change what may be asked: what a server passes over without a word is not offered, so that such
a request goes to another replica or is refused; what it refuses itself is left to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from terascope.core.models import Capabilities, Feature

_WORDS = frozenset({"tokenize", "detokenize"})
_GENERATES = frozenset({"chat/completions", "completions"})
_ALL = _WORDS | _GENERATES | {"embeddings"}
_OURS = frozenset({
    Feature.REPRODUCIBLE, Feature.PROMPT_EMBEDS, Feature.MIXED_PROMPTS, Feature.MIXED_COMPLETIONS, Feature.ADAPTERS,
    Feature.EMBEDDING_LAYERS, Feature.EMBEDDING_OPTIONS,
})  # fmt: skip
"""Words of ours: a server that does not know them would let them pass and do something else. Vectors travel in other
forms there: vLLM takes pickles of torch."""
_LIKE_OPENAI = frozenset(Feature) - _OURS


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server.

    `health`: the path that says whether it answers, besides its list of models. `salt`: whether `cache_salt` tells it
    who may share computed prefixes. `is_llamacpp`: it is asked choice by choice, in its own words (`llamacpp`).
    """

    name: str
    endpoints: frozenset[str] = _ALL
    features: frozenset[Feature] = _LIKE_OPENAI
    health: str = ""
    salt: bool = False
    is_llamacpp: bool = False

    @property
    def capabilities(self) -> Capabilities:
        """What may be asked of it."""
        return Capabilities(self.endpoints, frozenset(map(str, self.features)))


UNKNOWN = Dialect("")
"""Nothing is known: every endpoint is tried, and what the server answers is passed on."""
_DIALECTS = {
    one.name: one
    for one in (
        # a commercial service: it has no tokenizer to ask, takes no token ids in chats' place, and echoes nothing
        Dialect("openai", _ALL - _WORDS, _LIKE_OPENAI - {Feature.ECHO, Feature.TOKEN_PROMPTS}),
        # another centre; what its engines cannot do it refuses in our own words. Its adapters have names of its own.
        Dialect("terascope", features=frozenset(Feature) - {Feature.ADAPTERS}, health="/health", salt=True),
        Dialect(
            "vllm",
            features=_LIKE_OPENAI - {Feature.ENFORCED_TOOLS, Feature.SEVERAL_GREEDY},
            health="/health",
            salt=True,
        ),
        Dialect("sglang", features=_LIKE_OPENAI - {Feature.DIMENSIONS}, health="/health"),
        # it echoes no prompts, and cuts no embeddings
        Dialect(
            "llamacpp", features=_LIKE_OPENAI - {Feature.ECHO, Feature.DIMENSIONS}, health="/health", is_llamacpp=True
        ),
    )
}
NAMES = tuple(_DIALECTS)
"""What `kind` of a deployment may be."""
_TELLING = frozenset(NAMES) - {"openai"}
"""Servers that list themselves as the owner of their models. Others that say `openai` may be anything."""


def dialect(name: str) -> Dialect:
    """Return the dialect called `name`, `UNKNOWN` for an empty one. Raises `KeyError`."""
    return _DIALECTS[name] if name else UNKNOWN


def found(model: Mapping[str, Any]) -> Dialect:
    """Return the dialect of the server that lists `model` so; `UNKNOWN` when it does not say what it is."""
    if "digest" in model and "modes" in model:
        return _DIALECTS["terascope"]  # where models belong to projects, too
    owner = str(model.get("owned_by"))
    return dialect(owner if owner in _TELLING else "")
