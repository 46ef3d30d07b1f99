"""A small OpenID Connect issuer on this machine, whose keys the test holds: it signs whatever a test wants signed.

It signs users in by device code as well (RFC 8628). A provider that is certified to follow the standards is used in
`tests/flow/test_single_sign_on.py`; this one also does what no right provider would.
"""

import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from joserfc import jws
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from terascope.core.config import IssuerConfig

AUDIENCE = "https://terascope.test"
_KEY_KINDS: dict[str, Callable[[], Key]] = {
    "ES": lambda: ECKey.generate_key("P-256"),
    "Ed": lambda: OKPKey.generate_key("Ed25519"),
    "RS": lambda: RSAKey.generate_key(2048),
    "PS": lambda: RSAKey.generate_key(2048),
}


class SmallIssuer:
    """Serves one issuer; use it as a context manager.

    `answers` takes the place of what it would say at a path: status, headers and body. `asked` counts requests by path.
    """

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Key]] = {}
        """Each key that it publishes: its algorithm and itself, by its id."""
        self.asked: Counter[str] = Counter()
        self.answers: dict[str, tuple[int, Mapping[str, str], bytes]] = {}
        self.polls: list[dict[str, Any]] = []
        """What the token endpoint says next, one after the other; an `error` is a refusal."""
        self.forms: list[dict[str, str]] = []
        """What was sent to its endpoints, the newest last."""
        self.add_key("first")
        issuer = self

        class Handler(_Handler):
            served = issuer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The issuer's name, and where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def config(self, **changes: Any) -> IssuerConfig:
        """Its entry in `auth.issuers`, as `small`, with `changes`."""
        return IssuerConfig(**{"url": self.url, "name": "small", "audience": AUDIENCE} | changes)

    def add_key(self, kid: str, algorithm: str = "ES256") -> Key:
        """Make a key and publish it."""
        key = _KEY_KINDS[algorithm[:2]]()
        self.keys[kid] = (algorithm, key)
        return key

    def claims(self, now: float, **changes: Any) -> dict[str, Any]:
        """The claims of a token of `ada`, valid for five minutes; a change to None leaves a claim out."""
        usual = {"iss": self.url, "sub": "ada", "aud": AUDIENCE, "iat": int(now), "exp": int(now) + 300}
        return {name: value for name, value in (usual | changes).items() if value is not None}

    def token(self, now: float, kid: str = "first", *, typ: str = "at+jwt", **changes: Any) -> str:
        """A token with these claims, signed with the key `kid`."""
        return self.sign(json.dumps(self.claims(now, **changes)).encode(), kid, typ=typ)

    def sign(self, payload: bytes, key_id: str = "first", **header: Any) -> str:
        """Whatever it may be, signed; a change of the header to None leaves that out."""
        algorithm, key = self.keys[key_id]
        said = {
            name: value for name, value in ({"alg": algorithm, "kid": key_id} | header).items() if value is not None
        }
        return jws.serialize_compact(said, payload, key, registry=_Signs(strict_check_header=False))

    def jwks(self) -> dict[str, Any]:
        """Its public keys, as it publishes them."""
        entries = self.keys.items()
        return {"keys": [key.as_dict(private=False, kid=kid, alg=alg, use="sig") for kid, (alg, key) in entries]}

    def metadata(self) -> dict[str, Any]:
        """What it says about itself."""
        paths = {
            "jwks_uri": "/jwks",
            "token_endpoint": "/token",
            "device_authorization_endpoint": "/device",
            "revocation_endpoint": "/revoke",
        }
        return {"issuer": self.url} | {name: self.url + path for name, path in paths.items()}

    def answer(self, path: str, form: dict[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """What it says at `path`."""
        if path in self.answers:
            return self.answers[path]
        if path == "/token":
            told = self.polls.pop(0) if self.polls else {"error": "authorization_pending"}
            return 400 if "error" in told else 200, {}, json.dumps(told).encode()
        said: dict[str, Callable[[], Any]] = {
            "/.well-known/openid-configuration": self.metadata,
            "/jwks": self.jwks,
            "/device": self._device,
            "/revoke": dict,
        }
        return (200, {}, json.dumps(said[path]()).encode()) if path in said else (404, {}, b"{}")

    def _device(self) -> dict[str, Any]:
        page = f"{self.url}/enter"
        return {
            "device_code": "the-device-code",
            "user_code": "WDJB-MJHT",
            "verification_uri": page,
            "verification_uri_complete": f"{page}?user_code=WDJB-MJHT",
            "expires_in": 600,
            "interval": 5,
        }

    def __enter__(self) -> "SmallIssuer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def encoded(value: Any) -> str:
    """A part of a JWT that nobody signed: JSON as base64url; bytes as they are."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class _Signs(jws.JWSRegistry):
    """Signs as it is told; the library would warn of `EdDSA`, which RFC 9864 names anew and issuers still say."""

    max_header_length = max_payload_length = 1 << 20

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]


class _Handler(BaseHTTPRequestHandler):
    served: SmallIssuer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        form = {name: values[-1] for name, values in parse_qs(body).items()}
        self.served.forms.append(form)
        self._answer(form)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads its log."""

    def _answer(self, form: dict[str, str]) -> None:
        path = urlsplit(self.path).path
        self.served.asked[path] += 1
        status, headers, body = self.served.answer(path, form)
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
