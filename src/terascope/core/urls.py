"""Which URLs may carry secrets."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(url: str) -> bool:
    """True when `url` names this very machine by a loopback address or as `localhost`."""
    host = _host(url)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_private(url: str) -> bool:
    """True when nobody on the way can read or change what is sent to `url`: https, or http to this very machine."""
    scheme = url.partition(":")[0].lower()
    return bool(_host(url)) and (scheme == "https" or (scheme == "http" and is_loopback(url)))


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
