"""What `terascope login` keeps: one file for each gateway, readable by its owner alone."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_config_path
from pydantic import BaseModel, ConfigDict, Field

from terascope.core.errors import ConfigError


class Login(BaseModel):
    """A user's tokens for one gateway, and where they are renewed. `expires` is in seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    url: str
    name: str
    issuer: str
    client_id: str
    kind: str
    resource: str
    token_endpoint: str
    revocation_endpoint: str
    token: str = Field(repr=False)
    refresh_token: str = Field(repr=False)
    expires: float


def load(url: str) -> Login | None:
    """Return the login at the gateway `url`; None when there is none, or none that belongs to this user.

    Raises `ConfigError` when its file cannot be read.
    """
    try:
        with _path(url).open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_uid != os.getuid():
                return None
            login = Login.model_validate_json(file.read())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {_path(url)}: {error.strerror}") from None
    return login if login.url == url else None


def save(login: Login) -> None:
    """Keep `login` in place of what was there for its gateway. Raises `ConfigError`."""
    path = _path(login.url)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _directory()
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(login.model_dump_json())
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def remove(url: str) -> None:
    """Forget the login at the gateway `url`, if there is one."""
    _path(url).unlink(missing_ok=True)


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Keep every other program from renewing the login at `url`: an issuer may take a token for renewal once only."""
    _directory()
    with _path(url).with_suffix(".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _directory() -> Path:
    directory = user_config_path("terascope") / "logins"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def _path(url: str) -> Path:
    return user_config_path("terascope") / "logins" / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"
