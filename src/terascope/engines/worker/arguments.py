"""The part of its command line that every worker has: its model, where it listens, and how much it does at once."""

import argparse
from pathlib import Path

from terascope.engines.contract import Endpoint
from terascope.engines.upstream import Address


def place(endpoint: Endpoint) -> tuple[str, ...]:
    """Return the arguments that have a worker listen at `endpoint`."""
    address = Address.parse(endpoint.url)
    return ("--socket", address.path) if address.path else ("--host", address.host, "--port", str(address.port))


def parser_of(program: str) -> argparse.ArgumentParser:
    """Return a parser of what all workers are told; 0 means that the worker chooses."""
    parser = argparse.ArgumentParser(program, description="Serve one model over OpenAI's HTTP API.")
    add = parser.add_argument
    add("--model-dir", type=Path, required=True, help="directory of the checkpoint")
    add("--served-name", required=True, help="the model's name in requests and answers")
    listens = parser.add_mutually_exclusive_group(required=True)
    listens.add_argument("--socket", default="", help="Unix socket to serve at; made with mode 0600")
    # A default that is the number would make `--port 0`, any free port, look like no port given.
    listens.add_argument("--port", type=count, default="0", help="port to serve at; needs TERASCOPE_REPLICA_SECRET")
    add("--host", default="127.0.0.1", help="address of the port")
    add("--threads", type=count, default=0, help="CPU threads; default: all cores")
    add("--max-batch", type=at_least_one, default=32, help="most requests in the running batch")
    add("--context-length", type=count, default=0, help="longest prompt and answer together, in tokens")
    return parser


def count(text: str) -> int:
    """Read a whole number from 0 on."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def at_least_one(text: str) -> int:
    """Read a whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value
