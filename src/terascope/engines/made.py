"""Answers that an adapter makes itself."""

from collections.abc import AsyncIterator, Mapping

from terascope.engines.contract import Headers


class MadeAnswer:
    """An answer that is whole already: `contract.EngineAnswer` of JSON. Nothing is running behind it."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """`headers` without a value are left out."""
        self.status = status
        self.headers = Headers({"content-type": "application/json"})
        self.headers.update({name: value for name, value in (headers or {}).items() if value})
        self._body = body

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._body

    async def aclose(self) -> None:
        return
