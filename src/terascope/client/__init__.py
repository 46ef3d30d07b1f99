"""The Python SDK: HTTP only.

    from terascope.client import Client

    with Client("http://127.0.0.1:8000", "tera-...") as client:
        for card in client.models.list().data:
            print(card.id, card.state)

Without arguments it asks the gateway that TERASCOPE_URL and TERASCOPE_API_KEY name. `AsyncClient` has the same
calls, to be awaited. Every failure is a `ServiceError` of `terascope.core.errors`.
"""

from terascope.client.chat import AsyncChatStream, ChatStream
from terascope.client.clients import AsyncClient, Client

__all__ = ["AsyncChatStream", "AsyncClient", "ChatStream", "Client"]
