"""What a deployment says of a remote server; all here raise `ConfigError` for what is impossible."""

import stat
from pathlib import Path

from terascope.core import environment
from terascope.core.config import DeploymentConfig
from terascope.core.errors import ConfigError
from terascope.engines.contract import Endpoint
from terascope.engines.remote.dialects import NAMES, Dialect, dialect
from terascope.engines.remote.retries import Retries
from terascope.engines.upstream import Address

_MOST_KEY = 4096  # bytes of a file with a key
_OPTIONS = {"retries": 10, "retry_patience_s": 600}  # and the most that each may be


def endpoint_of(deployment: DeploymentConfig) -> Endpoint:
    """Return where the server is, and its key."""
    if not deployment.url:
        raise ConfigError(f"the deployment of {deployment.model!r} has no url; write the server's base URL")
    url = deployment.url.rstrip("/").removesuffix("/v1")
    Address.parse(url)
    return Endpoint(url, _key(deployment))


def dialect_of(deployment: DeploymentConfig) -> Dialect:
    """Return the kind of server that is declared."""
    if deployment.kind not in ("", *NAMES):
        raise ConfigError(f"kind {deployment.kind!r} is not known; write one of {', '.join(NAMES)}, or leave it out")
    return dialect(deployment.kind)


def retries_of(deployment: DeploymentConfig) -> Retries:
    """Return how often the server is asked again."""
    given = {name: _number(name, text) for name, text in deployment.options.items()}
    default = Retries()
    return Retries(given.get("retries", default.most), float(given.get("retry_patience_s", default.patience_s)))


def _number(name: str, text: str) -> int:
    if name not in _OPTIONS:
        raise ConfigError(f"the remote engine has no option {name!r}; there are {', '.join(_OPTIONS)}")
    if not text.isdecimal() or int(text) > _OPTIONS[name]:
        raise ConfigError(f"option {name} is {text!r}; write a whole number up to {_OPTIONS[name]}")
    return int(text)


def _key(deployment: DeploymentConfig) -> str:
    name, file = deployment.api_key_env, deployment.api_key_file
    if name and file:
        raise ConfigError("give api_key_env or api_key_file, not both")
    if file:
        return _from_file(Path(file))
    key = environment.secret(name) if name else ""
    if name and not key:
        raise ConfigError(f"api_key_env names the environment variable {name!r}, which is not set")
    return key


def _from_file(path: Path) -> str:
    """One line that only its owner and group can read, so that no other file is sent away by mistake."""
    try:
        if path.stat().st_mode & stat.S_IROTH:
            raise ConfigError(f"api_key_file {path} can be read by everybody here; chmod 600 it")
        with path.open("rb") as file:
            lines = file.read(_MOST_KEY + 1).decode("ascii").split()
    except OSError as error:
        raise ConfigError(f"api_key_file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        lines = []
    if len(lines) != 1 or len(lines[0]) > _MOST_KEY:
        raise ConfigError(f"api_key_file {path} must hold one key and nothing else")
    return lines[0]
