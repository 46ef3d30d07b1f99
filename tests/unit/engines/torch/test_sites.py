"""The sites of many architectures: that they are found, that they hold what they say, that changing them has effect."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    CohereConfig,
    DeepseekV3Config,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from terascope.core.errors import BadRequest
from terascope.engines.torch.attachment import Part
from terascope.engines.torch.batching import Packed, choose
from terascope.engines.torch.cache import blocks_for
from terascope.engines.torch.layout import Span
from terascope.engines.torch.packed import PackedModel, Step, prepare
from terascope.engines.torch.sites import find_sites
from terascope.engines.torch.taps import Listening
from terascope.engines.torch.text_attention import NAME as TEXTS
from terascope.engines.torch.text_attention import Texts
from terascope.engines.torch.tracing.passes import RowsAttention, whole
from terascope.internals.shape import Attention, Kind
from terascope.internals.sites import Place, Site, all_sites, axes, is_writable

SMALL: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MLA = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "q_lora_rank": 12,
    "kv_lora_rank": 12,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
}
GPT_OSS = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SMALL),
    "qwen2 with biases": Qwen2Config(**SMALL),
    "qwen3 with norms of queries and keys": Qwen3Config(**SMALL, head_dim=16),
    "gemma2 with norms before and after": Gemma2Config(**SMALL, sliding_window=6, head_dim=8),
    "olmo2 with norms after": Olmo2Config(**SMALL),
    "phi3 with fused projections": Phi3Config(**SMALL),
    "gpt2 with fused projections": GPT2Config(
        vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3, eos_token_id=2,
        bos_token_id=1,
    ),
    "gpt-neox side by side": GPTNeoXConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}),
    "cohere side by side with one norm": CohereConfig(**SMALL),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4),
    "gpt-oss with sinks": GptOssConfig(**SMALL, **GPT_OSS, head_dim=8),
    "deepseek-v3": DeepseekV3Config(**{**SMALL, "num_key_value_heads": 4}, **MLA),
}  # fmt: skip
PROMPT = [(j * 7 + 3) % 100 for j in range(11)]
OTHER = [(j * 5 + 1) % 100 for j in range(6)]


@cache
def models(name: str) -> tuple[PackedModel, PreTrainedModel]:
    """The packed model and transformers' own, both in float64."""
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            deepcopy(CONFIGS[name]), dtype=torch.float64, experts_implementation="eager"
        )
        with torch.no_grad():
            for name_, weight in model.named_parameters():  # those that begin at 0 or 1 would hide mistakes
                if weight.dim() == 1 or "gate.weight" in name_ or "router" in name_:
                    weight.add_(torch.randn(weight.shape) * 0.2)
        found.append(model.eval().requires_grad_(False))
    prepare(found[0])
    found[1].set_attn_implementation("eager")
    return PackedModel(found[0], 2000), found[1]


@dataclass
class Watch:
    """Keeps what is at every site of a row, and adds a vector to what is at one of them, for one token."""

    packed: PackedModel
    change: Site | None = None
    token: int = 3
    by: float = 1
    seen: dict[Site, Tensor] = field(default_factory=dict)
    before: dict[Site, Tensor] = field(default_factory=dict)

    @contextmanager
    def attach(self, module: PreTrainedModel, part: Part) -> Iterator[None]:
        with ExitStack() as stack:
            for site in all_sites(self.packed.sites.shape):
                stack.enter_context(self.packed.taps.open(site, part.first, part.last, self._tap(site)))
            yield

    def _tap(self, site: Site) -> Callable[[Tensor], Tensor | None]:
        def tap(x: Tensor) -> Tensor | None:
            self.before[site] = x.clone()
            changed = x.clone()
            if site == self.change:
                changed[self.token] += self.by * delta(x.shape[1:])
            self.seen[site] = changed.clone()
            return changed if site == self.change else None

        return tap

    def __getitem__(self, name: str) -> Tensor:
        return self.seen[site_of(name)]


def delta(shape: Sequence[int]) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def site_of(name: str) -> Site:
    layer, _, place = name.partition(".")
    return Site(Place(place), int(layer)) if layer.isdecimal() else Site(Place(name))


def run(name: str, change: Site | None = None, by: float = 1) -> tuple[Watch, Tensor, Tensor]:
    """The row watched, beside another one; the logits of both."""
    packed, _ = models(name)
    watch = Watch(packed, change, by=by)
    blocks = [packed.pool.take(blocks_for(len(row))) for row in (OTHER, PROMPT)]
    spans = [Span(0, len(row), own) for row, own in zip((OTHER, PROMPT), blocks, strict=True)]
    whole = range(len(OTHER), len(OTHER) + len(PROMPT))
    part = Part(whole.start, whole.stop, 0, PROMPT, whole, range(len(PROMPT)))
    step = Step([*OTHER, *PROMPT], spans, range(whole.stop), (), [(watch, part)])
    logits = packed.run(step)
    for own in blocks:
        packed.pool.give_back(own)
    return watch, logits[whole.start :], logits[: whole.start]


def close(found: Tensor, right: Tensor, error: float = 1e-8) -> None:
    torch.testing.assert_close(found, right.to(found.dtype), atol=error, rtol=error)


IN_FLOAT32 = 1e-4
"""transformers' own attention has its softmax in float32, and DeepSeek its routers."""


def within(model: nn.Module, layer: int) -> nn.Module:
    name = next(name for name, _ in model.named_modules() if name.endswith((f"layers.{layer}", f"h.{layer}")))
    return model.get_submodule(name)


def first(module: nn.Module, *names: str) -> nn.Module:
    """The submodule that has one of these names."""
    return next(module.get_submodule(name) for name in names if _has(module, name))


def _has(module: nn.Module, name: str) -> bool:
    return any(one == name for one, _ in module.named_modules())


def check(name: str, watch: Watch, logits: Tensor) -> None:
    """Every site follows from those before it by the architecture's formulas, whatever was changed."""
    _, plain = models(name)
    shape = watch.packed.sites.shape
    before = watch.before
    close(before[site_of("0.residual.pre")], watch["embeddings"])
    for layer in range(shape.layers):
        check_block(name, watch, layer)
        if layer:
            close(before[site_of(f"{layer}.residual.pre")], watch[f"{layer - 1}.residual.post"])
    norm = first(plain, "model.norm", "transformer.ln_f", "gpt_neox.final_layer_norm")
    close(before[site_of("norm")], norm(watch[f"{shape.layers - 1}.residual.post"]))
    head = plain.get_output_embeddings()(watch["norm"]) * getattr(plain.config, "logit_scale", 1)
    cap = getattr(plain.config, "final_logit_softcapping", None)
    close(before[site_of("logits")], head if cap is None else cap * torch.tanh(head / cap))
    close(logits, watch["logits"])


def check_block(name: str, watch: Watch, layer: int) -> None:
    block, before = within(models(name)[1], layer), watch.before

    def at(place: str) -> Tensor:
        return before[site_of(f"{layer}.{place}")]

    def now(place: str) -> Tensor:
        return watch[f"{layer}.{place}"]

    attention = first(block, "self_attn", "attn", "attention")
    out = first(attention, "o_proj", "c_proj", "dense")
    given = out(now("attention.heads").flatten(1))
    if "after" in name:
        given = block.get_submodule("post_attention_layernorm")(given)
    close(at("attention.output"), given)
    keys, values = (now(f"attention.{one}") for one in "kv")
    groups = now("attention.q").shape[1] // keys.shape[1]
    probabilities = now("attention.probabilities")
    close(at("attention.heads"), torch.einsum("qhk,khd->qhd", probabilities, values.repeat_interleave(groups, 1)))
    if "sinks" not in name and "gemma2" not in name:
        close(at("attention.probabilities"), attended(attention, now("attention.q"), keys.repeat_interleave(groups, 1)))
    stream = now("residual.pre")
    if "side by side" not in name:
        close(at("residual.mid"), stream + now("attention.output"))
        stream = now("residual.mid")
        close(at("residual.post"), stream + now("mlp.output"))
    else:
        close(at("residual.post"), stream + now("attention.output") + now("mlp.output"))
    check_mlp(name, block, at, now, stream)


def attended(attention: nn.Module, q: Tensor, k: Tensor) -> Tensor:
    n = len(q)
    scores = torch.einsum("qhd,khd->qhk", q, k) * float(attention.scaling)  # type: ignore[arg-type]
    later = torch.ones(n, n).triu(1).bool()[:, None]
    return torch.softmax(scores.masked_fill(later, -torch.inf), -1)


def check_mlp(
    name: str, block: nn.Module, at: Callable[[str], Tensor], now: Callable[[str], Tensor], stream: Tensor
) -> None:
    norms = ("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2", "input_layernorm")
    if "norms after" in name:
        close(at("mlp.input"), stream)
    else:
        close(at("mlp.input"), first(block, *norms)(stream))
    mlp = block.get_submodule("mlp")
    given = mlp(now("mlp.input")[None])
    given = (given[0] if isinstance(given, tuple) else given)[0]
    down = next((one for one in ("down_proj", "c_proj", "dense_4h_to_h") if _has(mlp, one)), None)
    if down is not None:
        given = mlp.get_submodule(down)(now("mlp.neurons"))
    if _has(block, "post_feedforward_layernorm"):
        given = block.get_submodule("post_feedforward_layernorm")(given)
    if down is not None or torch.equal(at("router.logits"), now("router.logits")):
        close(at("mlp.output"), given, IN_FLOAT32 if down is None else 1e-8)
    if down is None:
        router = first(mlp, "gate", "router")
        bias: Any = getattr(router, "bias", None)
        weight: Any = router.weight
        close(at("router.logits"), torch.nn.functional.linear(now("mlp.input"), weight, bias), IN_FLOAT32)


@pytest.mark.parametrize("name", CONFIGS)
def test_sites_hold_what_they_say(name: str) -> None:
    watch, logits, other = run(name)
    shape = watch.packed.sites.shape
    assert set(watch.seen) == set(all_sites(shape))
    for site, x in watch.seen.items():
        assert x.shape == (len(PROMPT), *(axis.size or len(PROMPT) for axis in axes(site, shape))), site
    check(name, watch, logits)
    _, plain = models(name)
    for row, found in ((PROMPT, logits), (OTHER, other)):
        told = plain(input_ids=torch.tensor([row]), use_cache=False, output_attentions=True, output_hidden_states=True)
        close(found, told.logits[0], IN_FLOAT32)
        if row is PROMPT:
            close(watch["embeddings"], told.hidden_states[0][0])
            for layer, right in enumerate(told.attentions):
                close(watch[f"{layer}.attention.probabilities"], right[0].transpose(0, 1), IN_FLOAT32)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_change_at_any_site_has_its_effect_and_no_other(name: str) -> None:
    _, plain, other = run(name)
    for site in all_sites(models(name)[0].sites.shape):
        if not is_writable(site):
            continue
        watch, logits, beside = run(name, site)
        check(name, watch, logits)
        close(beside, other)
        assert torch.equal(logits[: watch.token], plain[: watch.token]), site
        assert not torch.allclose(logits[watch.token :], plain[watch.token :]), site


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss with sinks", "deepseek-v3"])
def test_scores_of_experts_decide_who_is_chosen(name: str) -> None:
    layer = models(name)[0].sites.shape.moe_layers[-1]
    token = 3
    scores, experts = Site(Place.ROUTER_LOGITS, layer), Site(Place.ROUTER_EXPERTS, layer)
    plain, _, _ = run(name)
    flipped = 0
    for by in (30, -30):
        changed, _, _ = run(name, scores, by)
        before, after = (one.seen[experts] for one in (plain, changed))
        assert torch.equal(before[:token], after[:token])
        flipped += set(before[token].tolist()) != set(after[token].tolist())
    assert flipped
    if name != "deepseek-v3":  # which chooses groups of experts before
        best = changed.seen[scores].topk(2).indices
        assert torch.equal(changed.seen[experts], best)


def test_what_is_found_of_each() -> None:
    shapes = {name: models(name)[0].sites.shape for name in CONFIGS}
    assert all((one.layers, one.width, one.vocabulary) == (2, 32, 100) for one in shapes.values())
    assert {name for name, one in shapes.items() if one.absent} == {name for name in CONFIGS if "side by side" in name}
    assert shapes["deepseek-v3"].moe_layers == (1,)
    assert shapes["deepseek-v3"].attention is Attention.LATENT
    assert (shapes["deepseek-v3"].head_width, shapes["deepseek-v3"].value_width) == (12, 6)
    assert {name for name, one in shapes.items() if one.experts} == {"mixtral", "gpt-oss with sinks", "deepseek-v3"}


def test_a_model_whose_stream_does_not_add_up_has_fewer_sites() -> None:
    """Granite multiplies what is added; what is not seen is not offered."""
    model = AutoModelForCausalLM.from_config(GraniteConfig(**SMALL, residual_multiplier=0.5))
    model.eval().requires_grad_(False)
    prepare(model)
    packed = PackedModel(model, 100)
    found = {str(site) for site in all_sites(packed.sites.shape)}
    assert {"blocks.1.residual.post", "blocks.1.mlp.neurons", "blocks.0.attention.heads"} <= found
    assert not {"blocks.1.residual.mid", "blocks.1.attention.output", "blocks.1.mlp.output"} & found


def test_modules_by_their_paths() -> None:
    packed, plain = models("mixtral")
    path = "model.layers.1.mlp.experts"
    assert packed.sites.shape.modules[path] == (32, 32)
    seen: list[Tensor] = []

    @dataclass
    class Hidden:
        @contextmanager
        def attach(self, _: PreTrainedModel, part: Part) -> Iterator[None]:
            with packed.taps.open(Site(Place.MODULE_OUTPUT, None, path), part.first, part.last, self.tap):
                yield

        def tap(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return x * 0

    blocks = packed.pool.take(1)
    step = Step(PROMPT, [Span(0, len(PROMPT), blocks)], [10], (), [(Hidden(), Part(0, len(PROMPT), 0, PROMPT))])
    changed = packed.run(step)[0]
    packed.pool.give_back(blocks)
    right: list[Tensor] = []

    def hidden(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        right.append(output)
        return output * 0

    handle = plain.get_submodule(path).register_forward_hook(hidden)
    told = plain(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    handle.remove()
    close(seen[0], right[0], IN_FLOAT32)
    close(changed, told, IN_FLOAT32)


def test_what_is_no_site_is_refused() -> None:
    sites = models("llama")[0].sites
    for site in (Site(Place.RESIDUAL_POST, 7), Site(Place.MODULE_INPUT, None, "model.nothing")):
        with pytest.raises(BadRequest, match="no site"):
            sites.install(site, None)


def test_an_encoder_with_norms_after_its_sums() -> None:
    """BERT: every site by formula, then with each of them changed."""
    torch.manual_seed(2)
    config = BertConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"})
    model = BertModel(config).double().eval().requires_grad_(False)
    batching = choose(model, 64)
    assert isinstance(batching, Packed)

    def computed(taps: Listening) -> Tensor:
        texts = Texts([len(PROMPT)], model.device)
        texts.attend = RowsAttention([whole(len(PROMPT))], taps, causal=False)
        return batching.states(torch.tensor(PROMPT), texts)

    sites = find_sites(model, computed, Kind.ENCODER)
    taps = sites.taps()
    last = torch.zeros(0)
    for change in (None, *all_sites(sites.shape)):
        seen: dict[Site, Tensor] = {}
        before: dict[Site, Tensor] = {}

        def tap(site: Site, x: Tensor, change: Site | None = change, seen: Any = seen, before: Any = before) -> Any:
            before[site] = x.clone()
            seen[site] = x + delta(x.shape) * 0.3 if site == change else x.clone()
            return seen[site] if site == change else None

        with ExitStack() as stack, torch.inference_mode():
            for site in all_sites(sites.shape):
                stack.enter_context(taps.open(site, 0, len(PROMPT), partial(tap, site)))
            states = computed(taps)
        for layer in range(2):
            check_bert_layer(model.encoder.layer[layer], layer, before, seen)
        close(states, seen[Site(Place.RESIDUAL_POST, 1)])
        if change is None:
            last = states
            assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
            model.set_attn_implementation("eager")
            told = model(torch.tensor([PROMPT]), output_hidden_states=True)
            model.set_attn_implementation(TEXTS)
            for layer in range(2):
                close(seen[Site(Place.RESIDUAL_POST, layer)], told.hidden_states[layer + 1][0], IN_FLOAT32)
        else:
            assert not torch.allclose(states, last), change


def check_bert_layer(block: nn.Module, layer: int, before: dict[Site, Tensor], seen: dict[Site, Tensor]) -> None:
    def at(place: Place) -> Tensor:
        return before[Site(place, layer)]

    def now(place: Place) -> Tensor:
        return seen[Site(place, layer)]

    q, k, v = now(Place.ATTENTION_Q), now(Place.ATTENTION_K), now(Place.ATTENTION_V)
    scores = torch.einsum("qhd,khd->qhk", q, k) / q.shape[-1] ** 0.5
    close(at(Place.ATTENTION_PROBABILITIES), scores.softmax(-1))
    close(at(Place.ATTENTION_HEADS), torch.einsum("qhk,khd->qhd", now(Place.ATTENTION_PROBABILITIES), v))
    after, output = block.get_submodule("attention.output"), block.get_submodule("output")
    close(at(Place.ATTENTION_OUTPUT), after.get_submodule("dense")(now(Place.ATTENTION_HEADS).flatten(1)))
    total = now(Place.RESIDUAL_PRE) + now(Place.ATTENTION_OUTPUT)
    close(at(Place.RESIDUAL_MID), after.get_submodule("LayerNorm")(total))
    close(at(Place.MLP_INPUT), now(Place.RESIDUAL_MID))
    close(at(Place.MLP_NEURONS), block.get_submodule("intermediate")(now(Place.MLP_INPUT)))
    close(at(Place.MLP_OUTPUT), output.get_submodule("dense")(now(Place.MLP_NEURONS)))
    total = now(Place.RESIDUAL_MID) + now(Place.MLP_OUTPUT)
    close(at(Place.RESIDUAL_POST), output.get_submodule("LayerNorm")(total))
