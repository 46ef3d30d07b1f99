"""How requests get the token of a login: renewed in good time, by one program at once."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator

import httpx

from terascope.client import logins, oauth
from terascope.client.logins import Login
from terascope.core.errors import IssuerUnavailable, NotAuthenticated

_EARLY_S = 30.0  # a token that ends within this time is renewed first: a request takes its time


class LoginAuth(httpx.Auth):
    """Signs requests to one gateway with the token of `terascope login`.

    A request raises `NotAuthenticated` when the login has ended, `IssuerUnavailable` when it cannot be renewed.
    """

    def __init__(self, login: Login, now: Callable[[], float] = time.time) -> None:
        self._login = login
        self._now = now

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        self._renew()
        yield self._signed(request)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        if not self._fresh(self._login):
            await asyncio.to_thread(self._renew)
        yield self._signed(request)

    def _signed(self, request: httpx.Request) -> httpx.Request:
        request.headers["authorization"] = f"Bearer {self._login.token}"
        return request

    def _fresh(self, login: Login) -> bool:
        return login.expires - self._now() > _EARLY_S

    def _renew(self) -> None:
        if self._fresh(self._login):
            return
        with logins.locked(self._login.url):
            found = logins.load(self._login.url)
            if found is None:
                raise NotAuthenticated("you have signed out; sign in again with `terascope login`")
            self._login = found if self._fresh(found) else self._renewed(found)

    def _renewed(self, login: Login) -> Login:
        still_valid = login.expires > self._now()
        if not login.refresh_token:
            if still_valid:
                return login
            raise NotAuthenticated("your login has ended; sign in again with `terascope login`")
        try:
            renewed = oauth.renew(login, self._now())
        except IssuerUnavailable:
            if still_valid:
                return login
            raise
        logins.save(renewed)
        return renewed
