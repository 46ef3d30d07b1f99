"""Checks of the engine conformance suite: vectors out."""

import base64
import math
import struct

from terascope.protocol.openai import EmbeddingList
from terascope.testing.engine_subject import Subject

_EMBEDDINGS = "embeddings"
_WORDS = "one two three four five six seven eight nine ten"
_MANY_SCRIPTS = "na\u00efve caf\u00e9 \u65e5\u672c\u8a9e \U0001f389 e\u0301"


async def check_embeddings(subject: Subject) -> None:
    """Vectors of length 1, in order, the same alone as among others, the same in both encodings."""
    texts = [_WORDS, _MANY_SCRIPTS, _WORDS]
    answer = EmbeddingList.model_validate((await subject.ask(_EMBEDDINGS, input=texts)).good)
    vectors = [one.embedding for one in answer.data]
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens > 0
    for vector in vectors:
        assert isinstance(vector, list)
        assert math.isclose(math.hypot(*vector), 1, abs_tol=1e-3)
    assert _close(vectors[2], vectors[0])
    alone = (await subject.ask(_EMBEDDINGS, input=_WORDS, encoding_format="base64")).good["data"][0]["embedding"]
    raw = base64.b64decode(alone, validate=True)
    assert _close(struct.unpack(f"<{len(raw) // 4}f", raw), vectors[0])


def _close(one: object, other: object) -> bool:
    """Whether two vectors are the same up to rounding."""
    assert isinstance(one, (list, tuple)), one
    assert isinstance(other, (list, tuple)), other
    return len(one) == len(other) and all(math.isclose(a, b, abs_tol=1e-5) for a, b in zip(one, other, strict=True))


async def check_dimensions(subject: Subject) -> None:
    """`dimensions` keeps the leading ones, scaled to length 1 again."""
    whole = (await subject.ask(_EMBEDDINGS, input=_WORDS)).good["data"][0]["embedding"]
    short = (await subject.ask(_EMBEDDINGS, input=_WORDS, dimensions=8)).good["data"][0]["embedding"]
    length = math.hypot(*whole[:8])
    assert _close(short, [x / length for x in whole[:8]])
    said = await subject.ask(_EMBEDDINGS, input=_WORDS, dimensions=len(whole) + 1)
    assert (said.status, said.error["param"]) == (400, "dimensions")
