"""Rows with adapters get what PEFT computes with each alone, whoever is beside them."""

import asyncio
import base64
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from terascope.core.errors import BadRequest, ModelUnavailable
from terascope.engines.adapter_files import HEADER
from terascope.engines.torch.cache import BLOCK
from terascope.engines.torch.encoder import load_encoder
from terascope.engines.torch.lora.read import measure_adapter, read_adapter
from terascope.engines.torch.lora.shelf import Shelf
from terascope.engines.torch.lora.weights import Adapter
from terascope.engines.torch.model import CausalModel
from terascope.engines.torch.rows import RowPlan
from terascope.engines.torch.settings import WorkerSettings
from terascope.internals.lora import CONFIG, WEIGHTS

from .adapters import KINDS, base, files_of, load_all, random_adapter, with_peft
from .conftest import Client, make_tokenizer
from .driver import Asked, Driver, computed, plan

NAMES = sorted(KINDS)
SIZE = 320
NONE = len(NAMES)  # the number of no adapter


def _prompt(number: int, length: int = 30) -> list[int]:
    return [(number * 41 + i * 13 + 3) % SIZE for i in range(length)]


@pytest.fixture(scope="module")
def directories(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    module = LlamaForCausalLM.from_pretrained(tiny_dir)
    root = tmp_path_factory.mktemp("adapters")
    return [random_adapter(module, root / str(i), i, **KINDS[name]) for i, name in enumerate(NAMES)]


@pytest.fixture(scope="module")
def adapters(tiny: CausalModel, directories: list[Path]) -> list[Adapter | None]:
    return [*load_all(tiny, directories), None]


@pytest.fixture(scope="module")
def plain(tiny_dir: Path, directories: list[Path]) -> list[PreTrainedModel]:
    """The model as PEFT makes it with each adapter, and without one."""
    models = [LlamaForCausalLM.from_pretrained(tiny_dir, attn_implementation="eager") for _ in range(NONE + 1)]
    return [*map(with_peft, models, directories), models[-1].eval().requires_grad_(False)]


def _plan(number: int, adapter: Adapter | None, length: int = 30, most: int = 8, **options: object) -> RowPlan:
    return plan(_prompt(number, length), most, adapter=adapter, **options)  # type: ignore[arg-type]


def _is_as_alone(model: PreTrainedModel, asked: Asked, most: int, seed: int | None = None) -> None:
    assert asked.error is None
    tokens, logprobs = computed(model, asked.rows[0].plan.prompt, most, seed=seed)
    assert asked.tokens() == tokens
    assert asked.logprobs() == pytest.approx(logprobs, abs=3e-4)


@pytest.mark.parametrize("number", range(NONE))
def test_each_alone(tiny: CausalModel, adapters: list[Adapter], plain: list[PreTrainedModel], number: int) -> None:
    asked = Driver(tiny).alone(_plan(1, adapters[number]))
    _is_as_alone(plain[number], asked, 8)
    bare, _ = computed(plain[NONE], _prompt(1), 8)
    assert asked.tokens() != bare


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, NONE), st.integers(1, 70), st.none() | st.integers(0, 99)), min_size=2, max_size=7
    ),
    st.sampled_from([1, 40, 512]),
    st.sampled_from([144, 40_000]),
)
def test_all_kinds_share_steps(
    tiny: CausalModel,
    adapters: list[Adapter | None],
    plain: list[PreTrainedModel],
    wanted: list[tuple[int, int, int | None]],
    step_tokens: int,
    cache_tokens: int,
) -> None:
    """Prompts read in parts or whole, and also where rows lose their memory and are computed again."""
    driver = Driver(tiny, cache_tokens, 5, step_tokens)
    asked = [
        driver.ask(_plan(i, adapters[which], length, 5, seed=seed)) for i, (which, length, seed) in enumerate(wanted)
    ]
    driver.finish()
    assert driver.together > 1
    for one, (which, _, seed) in zip(asked, wanted, strict=True):
        _is_as_alone(plain[which], one, 5, seed)


def test_rows_that_come_and_go(tiny: CausalModel, adapters: list[Adapter | None], plain: list[PreTrainedModel]) -> None:
    """The adapters side by side are others at nearly every step."""
    driver = Driver(tiny, max_batch=4)
    asked = []
    for number in range(18):
        asked.append(
            (number % (NONE + 1), driver.ask(_plan(number, adapters[number % (NONE + 1)], 20, 3 + number % 5)))
        )
        driver.step()
    driver.finish()
    for which, one in asked:
        _is_as_alone(plain[which], one, len(one.tokens()))


def test_nothing_is_left_in_the_model(tiny: CausalModel, adapters: list[Adapter | None]) -> None:
    driver = Driver(tiny)
    driver.ask(_plan(1, adapters[0]))
    driver.step()
    assert not any(layer._forward_hooks for layer in tiny.packed.module.modules())


def test_a_prefix_is_shared_with_rows_of_the_same_adapter_only(
    tiny: CausalModel, adapters: list[Adapter], plain: list[PreTrainedModel]
) -> None:
    """The scope says so; here it is seen that keys and values do differ."""
    driver = Driver(tiny)
    first = driver.alone(_plan(3, adapters[0], 50, scope="us 0"))
    again = driver.alone(_plan(3, adapters[0], 50, scope="us 0"))
    other = driver.alone(_plan(3, adapters[1], 50, scope="us 1"))
    assert (first.cached, again.cached, other.cached) == ([0], [3 * BLOCK], [0])
    assert first.tokens() == again.tokens()
    _is_as_alone(plain[1], other, 8)


@pytest.mark.parametrize("kind", ["tiny", "half_tiny"])
def test_reproducible_rows_have_the_same_bits_beside_any_adapters(
    request: pytest.FixtureRequest, directories: list[Path], kind: str
) -> None:
    model: CausalModel = request.getfixturevalue(kind)
    own = load_all(model, directories)
    wanted = _plan(5, own[0], 150, 12, seed=4, reproducible=True)
    alone = Driver(model).alone(wanted)
    driver = Driver(model, max_batch=8)
    asked = driver.ask(wanted)
    for number in range(1, 5):
        driver.ask(_plan(number, own[number], 20 + 9 * number, 20, seed=number, reproducible=number % 2 == 0))
    driver.finish()
    assert asked.tokens() == alone.tokens()
    assert asked.logprobs() == alone.logprobs()


def test_in_bfloat16_it_is_near(half_tiny: CausalModel, directories: list[Path], plain: list[PreTrainedModel]) -> None:
    adapters = load_all(half_tiny, directories)
    driver = Driver(half_tiny)
    asked = [driver.ask(_plan(i, adapter, most=1)) for i, adapter in enumerate(adapters)]
    driver.finish()
    for number, one in enumerate(asked):
        exact = plain[number](torch.tensor([_prompt(number)])).logits[0, -1].log_softmax(-1)
        assert one.logprobs()[0] == pytest.approx(float(exact[one.tokens()[0]]), abs=0.3)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> tuple[Path, Path]:
    """A random GPT-2, whose query, key and value are one `Conv1D`, and an adapter of it."""
    torch.manual_seed(2)
    root = tmp_path_factory.mktemp("gpt2")
    tokenizer = make_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=48, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3
    )
    GPT2LMHeadModel(config).save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    targets: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["c_attn", "c_proj", "c_fc"],
        "fan_in_fan_out": True,
    }
    module = GPT2LMHeadModel.from_pretrained(root / "base")
    return root / "base", random_adapter(module, root / "adapter", 7, **targets)


def test_fused_projections(gpt2: tuple[Path, Path], load: Callable[[Path], CausalModel]) -> None:
    base_dir, adapter_dir = gpt2
    model = load(base_dir)
    (adapter,) = load_all(model, [adapter_dir])
    assert '"fan_in_fan_out": true' in (adapter_dir / CONFIG).read_text()
    driver = Driver(model)
    asked = [driver.ask(_plan(i, one)) for i, one in enumerate((adapter, None, adapter))]
    driver.finish()
    expected = [GPT2LMHeadModel.from_pretrained(base_dir).eval() for _ in range(2)]
    tuned = with_peft(expected[0], adapter_dir)
    for one, module in zip(asked, (tuned, expected[1], tuned), strict=True):
        _is_as_alone(module, one, 8)


@pytest.mark.parametrize("kind", ["tiny", "half_tiny"])
def test_what_does_not_fit_is_refused(
    request: pytest.FixtureRequest, directories: list[Path], gpt2: tuple[Path, Path], kind: str
) -> None:
    model: CausalModel = request.getfixturevalue(kind)
    good = files_of(directories[0])
    small = replace(base(model), most_rank=3)
    other = replace(base(model), modules=dict.fromkeys(base(model).modules, (8, 8)))
    for files, own, word in (
        (files_of(gpt2[1]), base(model), r"no linear layer transformer\.h\.0\.attn\.c_attn, .* nor 5 more"),
        (good, small, "rank is 4, over the 3"),
        (good, other, "wide"),
    ):
        with pytest.raises(BadRequest, match=word):
            read_adapter(files, own)


def test_files_that_changed_are_refused(tiny: CausalModel, directories: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(directories[0], tmp_path / "copy")
    files = files_of(copy)
    assert read_adapter(files, base(tiny)).nbytes == measure_adapter(files, base(tiny))
    (copy / CONFIG).write_text((copy / CONFIG).read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    with pytest.raises(ModelUnavailable, match="changed"):
        read_adapter(files, base(tiny))
    (copy / WEIGHTS).unlink()
    with pytest.raises(ModelUnavailable, match="add it again"):
        measure_adapter(files, base(tiny))


def test_the_output_head_takes_no_adapter(tiny: CausalModel) -> None:
    assert "lm_head" not in base(tiny).modules
    assert "model.layers.1.mlp.down_proj" in base(tiny).modules


async def test_requests_name_them(
    tiny: CausalModel, start: Callable[..., Any], directories: list[Path], plain: list[PreTrainedModel]
) -> None:
    own = base(tiny)
    shelf = Shelf(1 << 20, partial(measure_adapter, base=own), partial(read_adapter, base=own))
    client = await start(tiny, shelf=shelf)
    asked = {"prompt": _prompt(1), "max_tokens": 6, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    headers = [{}, *({HEADER: files_of(one).header, "X-Terascope-Scope": "us"} for one in directories)]
    found = await asyncio.gather(
        *(client.post("v1/completions", {"model": "tiny", **asked}, headers=one) for one in headers * 2)
    )
    for number, (status, answer, _) in enumerate(found):
        assert status == 200
        _, logprobs = computed(plain[(number - 1) % (NONE + 1)], _prompt(1), 6)
        assert answer["choices"][0]["logprobs"]["token_logprobs"] == pytest.approx(logprobs, abs=3e-4)
    assert shelf.loads == NONE
    broken = replace(files_of(directories[0]), digest="other", sha256={})
    status, answer, _ = await client.post("v1/completions", {"model": "tiny", **asked}, headers={HEADER: broken.header})
    assert (status, answer["error"]["code"]) == (503, "model_unavailable")


async def test_without_a_shelf_they_are_refused(
    client: Client, start: Callable[..., Any], directories: list[Path], encoder_dir: Path
) -> None:
    encoder = await start(load_encoder(WorkerSettings(encoder_dir, "tiny"), lambda _: None))
    headers = {HEADER: files_of(directories[0]).header}
    for one, path, body in ((client, "v1/completions", {"prompt": "x"}), (encoder, "v1/embeddings", {"input": "a"})):
        status, answer, _ = await one.post(path, {"model": "tiny", **body}, headers=headers)
        assert (status, answer["error"]["code"]) == (400, "unsupported_feature")


async def test_what_is_inside_is_seen_with_the_adapter(
    tiny: CausalModel, start: Callable[..., Any], directories: list[Path], plain: list[PreTrainedModel]
) -> None:
    own = base(tiny)
    client = await start(
        tiny, shelf=Shelf(1 << 20, partial(measure_adapter, base=own), partial(read_adapter, base=own))
    )
    site = "blocks.1.mlp.output"
    body = {"model": "tiny", "prompts": [{"tokens": _prompt(2, 9)}], "operations": [{"capture": site}]}
    for number in (0, 2):
        headers = {HEADER: files_of(directories[number]).header}
        status, answer, _ = await client.post("v1/traces", body, headers=headers)
        assert status == 200, answer
        data = answer["rows"][0]["arrays"][site]["data"]
        seen = torch.frombuffer(bytearray(base64.b64decode(data)), dtype=torch.float32).view(9, -1)
        expected: list[torch.Tensor] = []
        handle = plain[number].model.layers[1].mlp.register_forward_hook(lambda _, __, out: expected.append(out[0]))  # noqa: B023
        plain[number](torch.tensor([_prompt(2, 9)]))
        handle.remove()
        torch.testing.assert_close(seen, expected[0], atol=1e-4, rtol=1e-3)
    gradient = body | {"gradient": {"of": {"logit": 5}, "with_respect_to": [site]}}
    status, answer, _ = await client.post("v1/traces", gradient, headers=headers)
    assert (status, answer["error"]["code"]) == (400, "unsupported_feature")
