"""From the command line's settings to a model that answers; imported by the worker when it is time to load."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
import transformers

from terascope._version import __version__
from terascope.core.models import Capabilities, Feature, Task
from terascope.engines.contract import EngineInfo
from terascope.engines.torch.embed_loop import EmbedLoop
from terascope.engines.torch.encoder import load_encoder
from terascope.engines.torch.jobs import single_threaded
from terascope.engines.torch.loop import BatchLoop
from terascope.engines.torch.lora.read import base_of, measure_adapter, read_adapter
from terascope.engines.torch.lora.shelf import Shelf
from terascope.engines.torch.lora.weights import Adapter
from terascope.engines.torch.model import CausalModel, Report, load_causal, task_of
from terascope.engines.torch.respond import Embedder, Generator
from terascope.engines.torch.settings import WorkerSettings
from terascope.engines.worker.httpd import Served
from terascope.engines.worker.metrics import Metrics

_WORDS = ("tokenize", "detokenize")
TRACES = frozenset({"traces", "traces/sites"})
_OF_EMBEDDERS = (Feature.TOKEN_PROMPTS, Feature.EMBEDDING_LAYERS, Feature.EMBEDDING_OPTIONS, Feature.DIMENSIONS)
ServedModel = TypeVar("ServedModel", Generator, Embedder)


def load(
    settings: WorkerSettings,
    loop: asyncio.AbstractEventLoop,
    crashed: Callable[[BaseException], None],
    metrics: Metrics,
    report: Report,
) -> Served:
    """Load the model and start computing; takes seconds, so call it in a thread.

    Raises `ConfigError` when the model cannot be served as configured, and what reading files raises.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
    loop.call_soon_threadsafe(loop.set_default_executor, single_threaded())
    make = _embedder if task_of(settings) is Task.EMBED else _generator
    return make(settings, loop, crashed, metrics, report)


def _generator(
    settings: WorkerSettings,
    loop: asyncio.AbstractEventLoop,
    crashed: Callable[[BaseException], None],
    metrics: Metrics,
    report: Report,
) -> Generator:
    model = load_causal(settings, report)
    batch = BatchLoop(
        model.packed,
        model.vocabulary,
        loop,
        crashed,
        metrics,
        max_batch=settings.max_batch,
        step_tokens=settings.step_tokens,
        extra_rows=settings.extra_rows,
    )
    features = set(Feature)
    shelf = _shelf(settings, model)
    if shelf is None:
        features -= {Feature.ADAPTERS}
    if not model.vocabulary.grammars:
        features -= {Feature.JSON_SCHEMA}
    if not (model.vocabulary.has_template and model.vocabulary.grammars):
        features -= {Feature.TOOLS, Feature.ENFORCED_TOOLS}
    if model.form is None:
        features -= {Feature.PROMPT_EMBEDS, Feature.MIXED_PROMPTS, Feature.MIXED_COMPLETIONS}
    chat = ("chat/completions",) if model.vocabulary.has_template else ()
    embeddings = ("embeddings",) if model.shows_states else ()
    info = _info(
        settings,
        Capabilities(frozenset((*chat, "completions", *embeddings, *_WORDS)), frozenset(map(str, features))),
        model.context_length,
        model.dtype,
        model.packed.device,
        cache_tokens=model.packed.cache_tokens,
        cache_mib=model.packed.cache_tokens * model.packed.bytes_per_token() >> 20,
        fixed_rows=model.packed.fixed_rows,
        adapter_mib=settings.adapter_mib if shelf else 0,
        architecture=type(model.packed.module).__name__,
    )
    return _started(Generator(settings.served_name, info, model, batch, shelf), batch)


def _shelf(settings: WorkerSettings, model: CausalModel) -> Shelf[Adapter] | None:
    """Where adapters are kept; None where none are taken. Looks at the model, so call it before it works."""
    base = base_of(model.packed, settings.adapter_rank) if settings.adapter_mib else None
    if base is None:
        return None
    return Shelf(settings.adapter_mib << 20, partial(measure_adapter, base=base), partial(read_adapter, base=base))


def _embedder(
    settings: WorkerSettings,
    loop: asyncio.AbstractEventLoop,
    crashed: Callable[[BaseException], None],
    metrics: Metrics,
    report: Report,
) -> Embedder:
    encoder = load_encoder(settings, report)
    batch = EmbedLoop(encoder, loop, crashed, metrics, max_batch=settings.max_batch)
    info = _info(
        settings,
        Capabilities(frozenset(("embeddings", *_WORDS)), frozenset(map(str, _OF_EMBEDDERS))),
        encoder.context_length,
        encoder.dtype,
        encoder.module.device,
        pooling=encoder.pooling,
        normalize=encoder.normalize,
        batching=encoder.batching.name,
        architecture=type(encoder.module).__name__,
    )
    return _started(Embedder(settings.served_name, info, encoder, batch), batch)


def _started(served: ServedModel, batch: BatchLoop | EmbedLoop) -> ServedModel:
    """Note what was found when the model was looked at, which needs the model for itself; then let it work."""
    if served.takes_traces:
        able = served.info.capabilities
        served.info = replace(served.info, capabilities=replace(able, endpoints=able.endpoints | TRACES))
    batch.start()
    return served


def _info(
    settings: WorkerSettings,
    capabilities: Capabilities,
    context_length: int,
    dtype: str,
    device: torch.device,
    **details: object,
) -> EngineInfo:
    told = {
        "served_name": settings.served_name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "max_batch": settings.max_batch,
        **details,
    }
    pairs = tuple((name, str(value)) for name, value in told.items())
    return EngineInfo(
        "torch",
        __version__,
        capabilities,
        context_length,
        dtype,
        str(device),
        pairs,
        slots=settings.max_batch,
        extra=settings.extra_rows,
    )
