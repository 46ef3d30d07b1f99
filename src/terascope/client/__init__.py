"""The Python SDK: HTTP only.

    from terascope.client import Client

    with Client("http://127.0.0.1:8000", "tera-...") as client:
        for card in client.models.list().data:
            print(card.id, card.state)

Without arguments it asks the gateway that TERASCOPE_URL and TERASCOPE_API_KEY name. `AsyncClient` has the same
calls, to be awaited. `client.trace` looks inside a model, with the operations of `terascope.client.operations`;
what it gives is drawn by `terascope.client.plots`. Every failure is a `ServiceError` of `terascope.core.errors`.
"""

from terascope.client.chat import AsyncChatStream, ChatStream
from terascope.client.clients import AsyncClient, Client
from terascope.client.trace_results import Trace, TracedPrompt
from terascope.client.values import TraceArray

__all__ = [
    "AsyncChatStream",
    "AsyncClient",
    "ChatStream",
    "Client",
    "Trace",
    "TraceArray",
    "TracedPrompt",
]
