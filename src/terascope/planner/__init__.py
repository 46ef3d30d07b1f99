"""What a model needs, how fast it will be, and what to type: memory, layouts, times and launch files without a GPU.

    from terascope.planner import find_model, make_load, parse_cluster, search

    plans = search(find_model("kimi-k2"), parse_cluster("4x8xH200"), make_load(4000, 800, users=400))
    print(plans.best.layout.name, plans.best.output)

Pure arithmetic on data files: no GPU, no network, nothing is written.
"""

from terascope.planner.configs import parse_config, read_config
from terascope.planner.cost import Cost, cost
from terascope.planner.disaggregated import RejectedSplit, Split, Splits, split, splits
from terascope.planner.fit import Need, needs
from terascope.planner.hardware import Cluster, Gpu, find_gpu, gpus, parse_cluster, systems
from terascope.planner.layout import Layout, make_layout
from terascope.planner.library import find_model, library, published
from terascope.planner.load import Load, make_load
from terascope.planner.memory import Memory, memory
from terascope.planner.search import Plan, Plans, Rejected, Wish, search
from terascope.planner.shapes import Architecture

__all__ = [
    "Architecture",
    "Cluster",
    "Cost",
    "Gpu",
    "Layout",
    "Load",
    "Memory",
    "Need",
    "Plan",
    "Plans",
    "Rejected",
    "RejectedSplit",
    "Split",
    "Splits",
    "Wish",
    "cost",
    "find_gpu",
    "find_model",
    "gpus",
    "library",
    "make_layout",
    "make_load",
    "memory",
    "needs",
    "parse_cluster",
    "parse_config",
    "published",
    "read_config",
    "search",
    "split",
    "splits",
    "systems",
]
