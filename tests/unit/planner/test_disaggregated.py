"""Prompts and answers apart: as many in flight as there are users, within the times, on the GPUs there are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terascope.planner import Plans, Split, Wish, find_model, make_load, parse_cluster, search, split, splits

K2 = find_model("kimi-k2")


def _searched(cluster: str, users: int, engine: str = "vllm", itl: str = "50ms") -> Plans:
    return search(K2, parse_cluster(cluster), make_load(4000, 800, users, "2s", itl), Wish(engine=engine))


def _in_flight(one: Split) -> float:
    """Little's law: requests a second times the seconds of each."""
    return one.output / 800 * (one.ttft + 800 * one.itl)


@settings(max_examples=12, deadline=None)
@given(users=st.integers(1, 4000), cluster=st.sampled_from(["4x8xH200", "8x8xH200", "16xjupiter"]))
def test_those_in_flight_are_the_users(users: int, cluster: str) -> None:
    plans = _searched(cluster, users)
    for one in splits(plans).plans:
        assert one.gpus <= plans.cluster.gpus
        assert one.at_once == pytest.approx(_in_flight(one), rel=1e-6)
        assert one.ttft <= 2
        assert one.itl <= 0.05
        if one.meets:
            assert one.at_once == pytest.approx(users, rel=1e-3, abs=1)
        else:
            assert one.at_once < users
            assert f"not {users:,}" in one.why_not


def test_without_users_it_is_as_many_as_go() -> None:
    most = split(_searched("4x8xH200", 0))
    assert most is not None
    assert most.meets
    fewer, more = split(_searched("4x8xH200", int(most.at_once))), split(_searched("4x8xH200", 5000))
    assert fewer is not None
    assert fewer.meets
    assert more is not None
    assert not more.meets
    assert fewer.output <= most.output * 1.001


def test_more_users_get_more_in_all_and_wait_longer() -> None:
    found = [one for users in (50, 200, 400) if (one := split(_searched("4x8xH200", users)))]
    assert len(found) == 3
    assert sorted(one.output for one in found) == [one.output for one in found]
    assert sorted(one.itl for one in found) == [one.itl for one in found]


def test_both_parts_keep_the_same_cache_and_the_reasons_are_told() -> None:
    divided = splits(_searched("8x8xH200", 400))
    for one in divided.plans:
        for name in ("weights", "cache", "cp"):
            assert getattr(one.prompt.layout, name) == getattr(one.answer.layout, name)
    reasons = {one.reason for one in divided.rejected}
    assert "vLLM's connector (NIXL) sends no caches of pipelines" in reasons
    assert any("takes more than the 64 GPUs there are" in one for one in reasons)
    assert all(one.prompt.layout.pp == one.answer.layout.pp == 1 for one in divided.plans)


def test_sglang_computes_prompts_in_pipelines() -> None:
    divided = splits(_searched("8x8xH200", 400, "sglang"))
    assert all(one.answer.layout.pp == 1 for one in divided.plans)
    assert "vLLM's connector (NIXL) sends no caches of pipelines" not in {one.reason for one in divided.rejected}


def test_layouts_too_slow_for_their_part_say_by_how_much() -> None:
    divided = splits(_searched("4x8xH200", 10, itl="8ms"))
    assert any("a token, more than the 8 ms asked" in one.reason for one in divided.rejected)


def test_the_torch_engine_does_not_divide() -> None:
    plans = search(find_model("qwen3-8b"), parse_cluster("4xH100"), make_load(1000, 500), Wish(engine="torch"))
    assert splits(plans).plans == ()
    assert [one.reason for one in splits(plans).rejected] == ["the engine does not divide prompts from answers"]
