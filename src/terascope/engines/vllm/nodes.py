"""A copy of vLLM over several nodes, by its own means: no Ray, no MPI."""

from collections.abc import Iterator

from terascope.core.config import LayoutConfig
from terascope.engines.contract import HEAD, PORT


def across(layout: LayoutConfig, rank: int) -> list[str]:
    """Return the arguments by which the nodes of a replica find each other; empty where it has one.

    Groups with requests of their own (data parallel) are divided over the nodes; where there are none, a group is.
    """
    if layout.nodes == 1:
        return []
    if layout.data == 1:
        return ["--nnodes", str(layout.nodes), "--node-rank", str(rank), "--master-addr", HEAD, "--master-port", PORT]
    local = layout.data // layout.nodes
    words = [
        "--data-parallel-size-local",
        str(local),
        "--data-parallel-address",
        HEAD,
        "--data-parallel-rpc-port",
        PORT,
    ]
    return words + (["--data-parallel-start-rank", str(rank * local)] if rank else [])


def division(layout: LayoutConfig) -> Iterator[str]:
    """Why a layout is impossible for vLLM, with the arithmetic; nothing where it is possible."""
    sizes = {name: getattr(layout, name) for name in ("tensor", "pipeline", "data", "nodes")}
    if wrong := [f"layout.{name} is {size}; write 1 or more" for name, size in sizes.items() if size < 1]:
        yield from wrong
    elif layout.data > 1 and layout.data % layout.nodes:
        yield (
            f"{layout.data} data-parallel groups cannot be divided over {layout.nodes} nodes, and vLLM starts no group "
            "that spans nodes beside others; make layout.data 1 or a multiple of layout.nodes"
        )
    elif layout.devices % layout.nodes:
        yield (
            f"tensor {layout.tensor} x pipeline {layout.pipeline} = {layout.devices} devices cannot be divided over "
            f"{layout.nodes} nodes; make that a multiple of {layout.nodes}"
        )
