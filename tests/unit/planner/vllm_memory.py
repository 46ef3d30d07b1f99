"""Run by vLLM's own Python: what it allocates for the models in some directories, one JSON line for each.

Models get random weights. The KV cache is given `cache_bytes`, which the caller takes for just enough for one sequence;
where `edge` is asked for, then a byte less. Weights are counted in vLLM's own extension point for loaders, before they
are packed for the CPU.
"""

import json
import os
import sys
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "CRITICAL",
    "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
}  # fmt: skip

import torch
from vllm import LLM
from vllm.config import ParallelConfig
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

CONTEXT = 256
TENSOR = range(1, 9)
loaded: list[int] = []


@register_model_loader("random_and_counted")
class Counted(DummyModelLoader):  # type: ignore[misc] # vLLM is not installed where types are checked
    def load_weights(self, model: Any, model_config: Any) -> None:
        super().load_weights(model, model_config)
        loaded.append(unique(list(model.parameters())))


def unique(tensors: list[torch.Tensor]) -> int:
    """Bytes of all storages."""
    return sum({one.data_ptr(): one.nbytes() for one in (each.untyped_storage() for each in tensors)}.values())


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [one for each in value for one in tensors(each)]


def start(directory: str, cache_bytes: int) -> Any:
    return LLM(
        model=directory, load_format="random_and_counted", skip_tokenizer_init=True, dtype="bfloat16",
        enforce_eager=True, max_model_len=CONTEXT, max_num_seqs=2, max_num_batched_tokens=CONTEXT,
        kv_cache_memory_bytes=cache_bytes, enable_prefix_caching=False,
    )  # fmt: skip


def starts(directory: str, cache_bytes: int) -> bool:
    try:
        start(directory, cache_bytes)
    except ValueError as error:
        if "KV cache" not in str(error):
            raise
        return False
    finally:
        cleanup_dist_env_and_memory()
    return True


def divisible(config: Any, ways: int) -> bool:
    try:
        config.verify_with_parallel_config(ParallelConfig(tensor_parallel_size=ways))
    except ValueError:
        return False
    return True


def measure(directory: str, cache_bytes: int) -> dict[str, Any]:
    engine = start(directory, cache_bytes).llm_engine
    core = engine.engine_core.engine_core
    worker = core.model_executor.driver_worker
    runner = getattr(worker, "worker", worker).model_runner
    pool, groups = core.scheduler.kv_cache_config.num_blocks, core.scheduler.kv_cache_config.kv_cache_groups
    found = {
        "weights": loaded[-1],
        "cache": unique(tensors(runner.kv_caches)),
        "tokens": pool * groups[0].kv_cache_spec.block_size,
        "groups": len(groups),
        "divisible": [ways for ways in TENSOR if divisible(engine.vllm_config.model_config, ways)],
    }
    engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()
    return found


for line in sys.stdin:
    asked = json.loads(line)
    result = measure(asked["directory"], asked["cache_bytes"])
    if asked["edge"]:
        result["starts_with_less"] = starts(asked["directory"], asked["cache_bytes"] - 1)
    print("measured " + json.dumps(asked | result), flush=True)
