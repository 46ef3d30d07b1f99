"""Structured logs: one JSON object a line on stderr, with the request's id, never with a prompt or an answer."""

import logging
import sys
import time
from typing import Any

import orjson

_EXTRA = ("request_id", "deployment", "replica", "model", "key_id")


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _EXTRA if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def set_up(level: str) -> None:
    """Send every log line to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in ("httpx", "alembic", "aiosqlite", "sqlalchemy"):  # the last two would log what they store
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.root.level))
