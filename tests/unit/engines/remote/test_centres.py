"""The remote engine at another Terascope: the conformance suite through a whole second gateway."""

from collections.abc import Iterator

import pytest

from terascope.cli import settings
from terascope.core.config import DEFAULT_MODELS, Config, DeploymentConfig
from terascope.engines.contract import Endpoint
from terascope.engines.remote.adapter import RemoteEngine
from terascope.engines.remote.dialects import UNKNOWN, dialect
from terascope.testing.engine_subject import Subject, user
from terascope.testing.engines import ENGINE_CHECKS, EngineCheck
from terascope.testing.gateway import ECHO, Served, running_gateway

_REAL = "smollm2-135m-instruct"
_WITH_WEIGHTS = [
    one
    for one in ENGINE_CHECKS
    if one.name in ("chat_logprobs", "tokenize_round_trip", "echo_with_logprobs", "length_limit")
]


@pytest.fixture(scope="module")
def centre() -> Iterator[Served]:
    """A second Terascope that serves the echo engine."""
    with running_gateway(ECHO) as served:
        yield served


@pytest.fixture(scope="module")
def real_centre() -> Iterator[Served]:
    """A second Terascope with a real model in the torch engine."""
    config = Config(models={_REAL: DEFAULT_MODELS[_REAL]}, deployments=[DeploymentConfig(model=_REAL)])
    with running_gateway(config, cache_dir=settings.cache_dir()) as served:
        yield served


def pinned(centre: Served, model: str) -> str:
    """The model's name with its version, as its answers say it."""
    return centre.services.catalog.resolve(model).public_name


def engine(centre: Served, model: str) -> RemoteEngine:
    return RemoteEngine(Endpoint(centre.url, centre.key), served_name=pinned(centre, model))


@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=lambda one: one.name)
async def test_conformance(check: EngineCheck, centre: Served) -> None:
    other = engine(centre, "echo")
    try:
        subject = Subject(other, pinned(centre, "echo"), await other.probe())
        assert check.applies(subject)
        await check.run(subject)
    finally:
        await other.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("check", _WITH_WEIGHTS, ids=lambda one: one.name)
async def test_conformance_with_a_real_model(check: EngineCheck, real_centre: Served) -> None:
    """What depends on the model; the rest is above."""
    other = engine(real_centre, _REAL)
    try:
        subject = Subject(other, pinned(real_centre, _REAL), await other.probe())
        assert check.applies(subject)
        await check.run(subject)
    finally:
        await other.aclose()


async def test_another_centre_is_recognised(centre: Served) -> None:
    other = engine(centre, "echo")
    info = await other.probe()
    assert dict(info.details)["kind"] == "terascope"
    assert info.capabilities == dialect("terascope").capabilities != UNKNOWN.capabilities
    assert len(dict(info.details)["upstream_digest"]) == 64
    await other.aclose()


async def test_its_errors_are_ours(centre: Served) -> None:
    """Code, parameter and words are those that its own clients get."""
    other = engine(centre, "echo")
    said = await Subject(other, pinned(centre, "echo"), await other.probe()).ask(
        "chat/completions", messages=user("x"), reproducible=True, prompt_embeds="AAAA"
    )
    assert (said.status, said.error["code"]) == (400, "unsupported_feature")
    assert said.error["message"]
    await other.aclose()
