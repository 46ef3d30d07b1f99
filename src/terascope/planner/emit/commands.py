"""The command lines that start one copy of a model, one for each of its nodes."""

import json
from dataclasses import dataclass

from terascope.core.errors import BadRequest
from terascope.planner.search import Plan, Plans

PORT = 8000
_MASTER_PORT = 29501
_DATA_PORT = 13345
ROUTER_PORT = 9000
BOOTSTRAP = 8998
"""Where copies for prompts tell SGLang's copies for answers how to reach their caches."""
PROMPT, ANSWER = "prompt", "answer"
_CONNECTORS = {PROMPT: "kv_producer", ANSWER: "kv_consumer"}
_SGLANG_ROUTER = ("python3", "-m", "sglang_router.launch_router")
_MODES = {PROMPT: "prefill", ANSWER: "decode"}
_SEQUENCES = 1024
"""Sequences of a group that are run at once at most, whatever the cache would hold."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a copy. The words are put into a command line as they are, so they may be a shell's variables."""

    rank: int
    """Its place among the copy's nodes; 0 answers requests."""
    head: str
    """Address of the node of rank 0."""
    port: str = str(PORT)
    model: str = ""
    """What to load, where that is not the model's name: a directory."""
    counted: str = ""
    """A word for the rank that is filled in when the command is run; the number of its multiples follows it."""
    part: str = ""
    """`PROMPT` or `ANSWER` where its copy does only one of them."""
    bootstrap: str = str(BOOTSTRAP)

    def times(self, number: int) -> str:
        """The rank times `number`, as a word."""
        return f"{self.counted}{number}" if self.counted else str(self.rank * number)


def nodes_of(plans: Plans, plan: Plan) -> int:
    """How many nodes a copy takes; 1 for one that is a part of a node."""
    return -(-plan.layout.gpus // plans.cluster.gpu.node)


def copies_on_a_node(plans: Plans, plan: Plan) -> int:
    """How many copies share a node; 1 where a copy takes one or more."""
    return max(1, plans.cluster.gpu.node // plan.layout.gpus)


def command(plans: Plans, plan: Plan, node: Node) -> list[str]:
    """Return the words of the command for `node`. Raises `BadRequest` where the engine cannot be started so."""
    if plans.wish.engine == "torch":
        raise BadRequest(
            "the torch engine is started by the gateway: emit `deploy` and run `terascope serve`", param="emit"
        )
    if plan.layout.dp > 1 and plan.layout.tp > plans.cluster.gpu.node:
        raise BadRequest(
            f"{plan.layout.name} has tensor groups that span nodes, several of them: no engine starts that with its "
            "command line; choose another plan with --rank",
            param="rank",
        )
    return (_vllm if plans.wish.engine == "vllm" else _sglang)(plans, plan, node)


def _vllm(plans: Plans, plan: Plan, node: Node) -> list[str]:
    words = ["vllm", "serve", node.model or plans.shapes.name]
    words += ["--served-model-name", plans.shapes.name]
    words += ["--headless"] if node.rank else ["--host", "0.0.0.0", "--port", node.port]
    words += ["--tensor-parallel-size", str(plan.layout.tp), *_stages(plan), *_data(plans, plan, node)]
    words += ["--max-model-len", str(context(plans, plan)), "--max-num-seqs", str(_sequences(plan))]
    words += ["--gpu-memory-utilization", f"{plans.wish.utilization:g}"]
    words += ["--kv-cache-dtype", "fp8"] if plan.layout.cache == "fp8" else []
    words += ["--quantization", "fp8"] if _made_while_loading(plans, plan) else []
    words += _experts(plans, plan)
    words += _connector(node.part)
    words += ["--enforce-eager"] if plans.cluster.gpu.vendor == "intel" else []
    return [*words, "--trust-remote-code"]


def _connector(part: str) -> list[str]:
    if not part:
        return []
    return ["--kv-transfer-config", json.dumps({"kv_connector": "NixlConnector", "kv_role": _CONNECTORS[part]})]


def _stages(plan: Plan) -> list[str]:
    words = ["--pipeline-parallel-size", str(plan.layout.pp)] if plan.layout.pp > 1 else []
    return words + (["--decode-context-parallel-size", str(plan.layout.cp)] if plan.layout.cp > 1 else [])


def _data(plans: Plans, plan: Plan, node: Node) -> list[str]:
    """How the nodes of a copy find each other."""
    layout, nodes = plan.layout, nodes_of(plans, plan)
    if layout.dp == 1:
        if nodes == 1:
            return []
        where = ["--nnodes", str(nodes), "--node-rank", node.times(1)]
        return [*where, "--master-addr", node.head, "--master-port", str(_MASTER_PORT)]
    local = min(layout.dp, plans.cluster.gpu.node // layout.tp)
    words = ["--data-parallel-size", str(layout.dp), "--data-parallel-size-local", str(local)]
    if nodes > 1:
        words += ["--data-parallel-address", node.head, "--data-parallel-rpc-port", str(_DATA_PORT)]
        words += ["--data-parallel-start-rank", node.times(local)] if node.rank else []
    return words


def _experts(plans: Plans, plan: Plan) -> list[str]:
    layout = plan.layout
    if layout.ep == 1:
        return []
    words = ["--enable-expert-parallel"]
    if layout.dp > 1 and layout.gpus > plans.cluster.domain and plans.cluster.gpu.vendor == "nvidia":
        words += ["--all2all-backend", "deepep_low_latency"]
    experts = max(one.experts for one, _ in plans.shapes.feed_forward)
    if more := layout.held(experts) * layout.ep - experts:
        words += ["--enable-eplb", "--eplb-config", json.dumps({"num_redundant_experts": more})]
    return words


def _sglang(plans: Plans, plan: Plan, node: Node) -> list[str]:
    layout, nodes = plan.layout, nodes_of(plans, plan)
    words = ["python3", "-m", "sglang.launch_server", "--model-path", node.model or plans.shapes.name]
    words += ["--served-model-name", plans.shapes.name, "--host", "0.0.0.0", "--port", node.port]
    words += ["--tp-size", str(layout.group)]
    words += ["--dp-size", str(layout.dp), "--enable-dp-attention"] if layout.dp > 1 else []
    words += ["--pp-size", str(layout.pp)] if layout.pp > 1 else []
    words += ["--ep-size", str(layout.ep)] if layout.ep > 1 else []
    words += ["--moe-a2a-backend", "deepep"] if layout.dp > 1 and layout.gpus > plans.cluster.domain else []
    if nodes > 1:
        words += ["--nnodes", str(nodes), "--node-rank", node.times(1)]
        words += ["--dist-init-addr", f"{node.head}:{_MASTER_PORT}"]
    words += [
        "--context-length",
        str(context(plans, plan)),
        "--max-running-requests",
        str(_sequences(plan) * layout.dp),
    ]
    words += ["--mem-fraction-static", f"{plans.wish.utilization:g}"]
    words += ["--kv-cache-dtype", "fp8_e4m3"] if layout.cache == "fp8" else []
    words += ["--quantization", "fp8"] if _made_while_loading(plans, plan) else []
    words += ["--disaggregation-mode", _MODES[node.part]] if node.part else []
    words += ["--disaggregation-bootstrap-port", node.bootstrap] if node.part == PROMPT else []
    return [*words, "--trust-remote-code"]


def router(plans: Plans, prompts: list[tuple[str, str]], answers: list[str]) -> list[str]:
    """Return the words of the command that sends requests to copies for prompts, each with its address and the port
    where SGLang's copies ask for caches, and to copies for answers."""
    vllm = plans.wish.engine == "vllm"
    words = ["vllm-router", "--vllm-pd-disaggregation"] if vllm else [*_SGLANG_ROUTER, "--pd-disaggregation"]
    words += ["--host", "0.0.0.0", "--port", str(ROUTER_PORT)]
    for address, bootstrap in prompts:
        words += ["--prefill", address, *([] if vllm else [bootstrap])]
    for address in answers:
        words += ["--decode", address]
    return [*words, "--policy", "round_robin", "--worker-startup-timeout-secs", "7200"]


def context(plans: Plans, plan: Plan) -> int:
    """The longest sequence that the engine is to take, in tokens."""
    return min(plan.context, plans.wish.context or plans.load.length)


def _sequences(plan: Plan) -> int:
    return max(1, min(_SEQUENCES, plan.concurrency // plan.copies // plan.layout.dp))


def _made_while_loading(plans: Plans, plan: Plan) -> bool:
    """Whether the engine makes the format from another checkpoint; one that is there says itself what it is."""
    return plan.layout.weights.name == "fp8" and plans.shapes.native == "bf16"
