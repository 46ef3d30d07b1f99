"""The SDK is found in the package itself."""

import subprocess
import sys

import pytest

import terascope
from terascope import client


def test_the_clients_are_the_sdks() -> None:
    assert (terascope.Client, terascope.AsyncClient) == (client.Client, client.AsyncClient)


def test_other_names_are_none_of_it() -> None:
    with pytest.raises(AttributeError, match=r"terascope.*'Klient'"):
        terascope.Klient  # noqa: B018 - it is looked up, not used


def test_it_is_loaded_when_it_is_named() -> None:
    program = "import sys, terascope; print('terascope.client' in sys.modules, terascope.Client.__name__)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told == "False Client\n"
