"""Shapes of models of each kind, small, and what Hypothesis makes of them."""

from hypothesis import strategies as st

from terascope.internals.shape import Attention, Kind, ModelShape

LLAMA = ModelShape(layers=4, width=12, heads=6, head_width=2, vocabulary=50, neurons=16, kv_heads=2)
GPT2 = ModelShape(layers=2, width=8, heads=2, head_width=4, vocabulary=50, neurons=32)
DEEPSEEK = ModelShape(
    layers=4,
    width=12,
    heads=3,
    head_width=6,
    value_width=4,
    vocabulary=50,
    neurons=24,
    experts=8,
    experts_per_token=2,
    expert_neurons=5,
    moe_layers=(1, 2, 3),
    attention=Attention.LATENT,
)
BERT = ModelShape(
    layers=3, width=8, heads=2, head_width=4, vocabulary=50, neurons=16, kind=Kind.ENCODER, final_norm=False
)
LINEAR = ModelShape(layers=4, width=8, heads=2, head_width=4, vocabulary=9, neurons=16, linear_layers=(0, 1, 2))

shapes = st.sampled_from([LLAMA, GPT2, DEEPSEEK, BERT, LINEAR])
