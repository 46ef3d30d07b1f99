"""Terascope: very large models as a shared scientific instrument.

Importing this package loads neither torch nor a web framework; `terascope.Client` loads the SDK when it is first named.
"""

from typing import TYPE_CHECKING, Any

from terascope._version import __version__

if TYPE_CHECKING:
    from terascope.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from terascope import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
