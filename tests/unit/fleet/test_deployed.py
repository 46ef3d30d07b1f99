"""What a configuration becomes before anything is started."""

from dataclasses import replace
from typing import Literal

import pytest

from terascope.core.config import DeploymentConfig, EngineConfig, LayoutConfig, SiteConfig
from terascope.core.errors import ConfigError
from terascope.engines import registry
from terascope.fleet.deployed import Deployed, Programs, Wanted, prepare
from terascope.fleet.launchers.registry import all_launchers
from terascope.fleet.reconciler import Limits
from terascope.testing.clock import ManualClock
from terascope.testing.small_engine import small_deployment, small_kinds

CONFIG, VERSION = small_deployment()


def _prepare(*wanted: tuple[DeploymentConfig, object]) -> tuple[Deployed, ...]:
    deployments: Wanted = [(config, VERSION) for config, _ in wanted]
    return prepare(deployments, small_kinds, all_launchers(ManualClock()), Limits(), Programs())


def test_a_deployment_without_a_name_has_its_models() -> None:
    [one] = _prepare((replace(CONFIG, name=""), VERSION))
    assert (one.name, one.model, one.launch.deployment.name) == ("small", "small@1", "small")


def test_each_deployment_says_how_long_its_start_may_take() -> None:
    [one] = _prepare((replace(CONFIG, start_timeout_s=7200.0), VERSION))
    assert (one.limits.start_s, one.limits.silent_s, one.external) == (7200.0, 60.0, False)


@pytest.mark.parametrize(
    ("reach", "grace_s", "silent_s"), [("door", 300.0, 60.0), ("tunnel", 5.0, 60.0), ("tunnel", 300.0, 330.0)]
)
def test_while_a_tunnel_may_be_mended_its_engine_is_not_silent(
    reach: Literal["door", "tunnel"], grace_s: float, silent_s: float
) -> None:
    site = SiteConfig(logs="/shared", reach=reach, gateway="https://gateway", tunnel_grace_s=grace_s)
    launchers, sites = all_launchers(ManualClock(), {"a": site}), {"a": site}
    wanted: Wanted = [(replace(CONFIG, site="a"), VERSION)]
    [one] = prepare(wanted, small_kinds, launchers, Limits(), Programs(sites=sites))
    assert one.limits.silent_s == silent_s
    place = one.launcher.place("replica_1")
    assert place is not None
    assert place.grace_s == grace_s


def test_an_engine_without_a_process_has_nothing_to_load() -> None:
    [one] = _prepare(small_deployment(engine="outside", url="https://example.org"))
    assert (one.launcher_name, one.external) == ("inprocess", True)
    assert (one.limits.start_s, one.limits.silent_s) == (10.0, 10.0)


def test_two_deployments_of_one_model_need_names() -> None:
    with pytest.raises(ConfigError, match="two deployments are called small"):
        _prepare((replace(CONFIG, name=""), VERSION), (replace(CONFIG, name=""), VERSION))
    first, second = _prepare((CONFIG, VERSION), (replace(CONFIG, name="other"), VERSION))
    assert first.model == second.model


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no engine 'abacus'"):
        prepare([(replace(CONFIG, engine="abacus"), VERSION)], registry.engine_kind, {}, Limits(), Programs())


def test_a_site_starts_engines_in_its_own_way() -> None:
    here, there = EngineConfig(python="here"), EngineConfig(python="there")
    programs = Programs({"vllm": here}, {"a": SiteConfig(engines={"vllm": there}), "b": SiteConfig()})
    found = [programs.of(DeploymentConfig(engine="vllm", site=site)) for site in ("", "a", "b", "unknown")]
    assert found == [here, there, here, here]
    assert programs.of(DeploymentConfig(engine="torch")) == EngineConfig()


def test_a_deployment_has_variables_of_its_own() -> None:
    programs = Programs({"vllm": EngineConfig(environment={"A": "all", "B": "all"})})
    found = programs.of(DeploymentConfig(engine="vllm", environment={"B": "mine"}))
    assert found.environment == {"A": "all", "B": "mine"}
    assert programs.of(DeploymentConfig(engine="vllm")).environment == {"A": "all", "B": "all"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"site": ""}, "name its `site`"),
        ({"engine": "torch"}, "engine torch runs on one node"),
        ({"layout": LayoutConfig(tensor=4, pipeline=1, nodes=2)}, r"= 4 GPUs, and 2 nodes .* have 2 x 4 = 8"),
        ({"layout": LayoutConfig(tensor=4, pipeline=3)}, r"= 12 GPUs, .* has 4; write layout.nodes: 3"),
    ],
)
def test_a_layout_must_fit_the_nodes_of_its_site(fields: dict[str, object], words: str) -> None:
    programs = Programs({}, {"a": SiteConfig(gpus_per_node=4)})
    fits = DeploymentConfig(engine="vllm", site="a", layout=LayoutConfig(tensor=4, pipeline=2, nodes=2))
    programs.check(fits, VERSION)
    with pytest.raises(ConfigError, match=words):
        programs.check(replace(fits, **fields), VERSION)  # type: ignore[arg-type]


def test_a_model_must_be_where_the_nodes_see_it() -> None:
    programs = Programs(sites={"a": SiteConfig(weights="/shared/models")})
    config = replace(CONFIG, site="a")
    programs.check(config, replace(VERSION, directory="/shared/models/x"))
    programs.check(replace(config, site=""), VERSION)
    with pytest.raises(ConfigError, match="put them below /shared/models"):
        programs.check(config, VERSION)


def test_a_site_and_a_launcher_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="leave out `launcher: inprocess`"):
        _prepare((replace(CONFIG, site="a", launcher="inprocess"), VERSION))
    with pytest.raises(ConfigError, match="there is no site 'a'"):
        _prepare((replace(CONFIG, site="a"), VERSION))
