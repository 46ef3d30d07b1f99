"""Launch files of a division into copies for prompts and copies for answers, with a router before them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from terascope.core.errors import BadRequest
from terascope.planner.disaggregated import Split
from terascope.planner.emit.commands import (
    ANSWER,
    BOOTSTRAP,
    PORT,
    PROMPT,
    ROUTER_PORT,
    Node,
    copies_on_a_node,
    nodes_of,
    router,
)
from terascope.planner.emit.containers import kubernetes_apart
from terascope.planner.emit.deployment import deploy_router
from terascope.planner.emit.environment import KEY, VISIBLE
from terascope.planner.emit.shell import (
    BOOTSTRAP_MARK,
    HEAD,
    HOST,
    MODEL,
    OWN_RANK,
    PORT_MARK,
    RANK,
    about,
    pbs_head,
    shell_line,
    shell_words,
    slurm_head,
)
from terascope.planner.search import Plan, Plans

_SIDE_CHANNEL = 5600
"""First port of NIXL; each group of a copy takes one, from a hundred that the copy has."""
_OPEN = f"# The router asks nobody for a secret: let only the gateway reach port {ROUTER_PORT}."
_ROUTER_NOTES: Mapping[str, Sequence[str]] = {
    "vllm": (_OPEN, f'export OPENAI_API_KEY="${KEY}"  # what the router shows to the copies'),
    "sglang": (_OPEN,),
}


@dataclass(frozen=True, slots=True)
class Part:
    """Copies that do the same, and where they are."""

    plans: Plans
    plan: Plan
    kind: str
    node: int = 0
    """Its first node."""
    place: int = 0
    """How many copies of the other part come before its own on a node that both share."""
    gpu: int = 0
    """Its first GPU there."""

    @property
    def nodes(self) -> int:
        """How many nodes it takes."""
        return -(-self.plan.gpus // self.plans.cluster.gpu.node)

    def addresses(self) -> Iterator[tuple[int, int, int]]:
        """Node, port and bootstrap port of each copy."""
        each, shared = nodes_of(self.plans, self.plan), copies_on_a_node(self.plans, self.plan)
        for copy in range(self.plan.copies):
            place = copy % shared
            yield self.node + copy * each // shared, PORT + self.place + place, BOOTSTRAP + place


def emit_split(plans: Plans, split: Split, target: str) -> Mapping[str, str]:
    """Return the text of each launch file of `split` for `target`, by file name. Nothing is written.

    Raises `BadRequest` where the target cannot start it.
    """
    if target == "deploy":
        return deploy_router(plans, split.name, round(split.at_once), ROUTER_PORT)
    if target not in _SCRIPTS:
        raise BadRequest(
            f"copies for prompts and for answers are emitted for {', '.join((*_SCRIPTS, 'deploy'))}, not {target!r}",
            param="emit",
        )
    return _SCRIPTS[target](plans, split)


def parts_of(plans: Plans, split: Split) -> tuple[Part, Part]:
    """Where the copies for prompts and those for answers are: on nodes of their own, or both on the only one."""
    prompt = Part(plans, split.prompt, PROMPT)
    if plans.cluster.gpus <= plans.cluster.gpu.node:
        return prompt, Part(plans, split.answer, ANSWER, 0, split.prompt.copies, split.prompt.gpus)
    return prompt, Part(plans, split.answer, ANSWER, prompt.nodes)


def _slurm(plans: Plans, split: Split) -> Mapping[str, str]:
    head = slurm_head(plans, _nodes(plans, split), "%x-%j.log")
    hosts = 'mapfile -t HOSTS < <(scontrol show hostnames "$SLURM_JOB_NODELIST")'
    start = 'srun --kill-on-bad-exit=1 --ntasks-per-node=1 bash -c "$(declare -f run); run" &'
    return {"serve.slurm": _script(plans, split, head, hosts, start)}


def _pbs(plans: Plans, split: Split) -> Mapping[str, str]:
    head = pbs_head(plans, _nodes(plans, split))
    hosts = 'mapfile -t HOSTS < <(uniq "$PBS_NODEFILE")'
    start = 'export -f run; mpiexec --envall -n "$NODES" --ppn 1 bash -c run &'
    return {"serve.pbs": _script(plans, split, head, hosts, start)}


_SCRIPTS: Mapping[str, Callable[[Plans, Split], Mapping[str, str]]] = {
    "slurm": _slurm,
    "pbs": _pbs,
    "kubernetes": kubernetes_apart,
}


def _nodes(plans: Plans, split: Split) -> int:
    return max(part.node + part.nodes for part in parts_of(plans, split))


def _script(plans: Plans, split: Split, head: list[str], hosts: str, start: str) -> str:
    prompt, answer = parts_of(plans, split)
    lines = [
        *head,
        *about(
            plans,
            f"prompts | answers: {split.name}",
            f"the job serves on port {ROUTER_PORT} of its first node,\n# where a router sends each prompt to one copy "
            "and its answer to another.",
        ),
        hosts,
        f'NODES={_nodes(plans, split)} ALL_HOSTS="${{HOSTS[*]}}"',
        "export ALL_HOSTS MODEL NODES",
        *_run(prompt, answer),
        start,
        *_ROUTER_NOTES[plans.wish.engine],
        shell_words(_router(plans, prompt, answer), "").lstrip() + " &",
        "wait -n  # when one part ends, the job ends: prompts without answers are no service",
    ]
    return "\n".join(lines) + "\n"


def _router(plans: Plans, prompt: Part, answer: Part) -> list[str]:
    prompts = [(f"http://{HOST}{node}:{port}", str(bootstrap)) for node, port, bootstrap in prompt.addresses()]
    return router(plans, prompts, [f"http://{HOST}{node}:{port}" for node, port, _ in answer.addresses()])


def _run(prompt: Part, answer: Part) -> Iterator[str]:
    """The function `run`: what a node does, by its rank."""
    yield "run() {"
    yield f"  local hosts {OWN_RANK}"
    yield '  read -ra hosts <<< "$ALL_HOSTS"'
    if prompt.plans.wish.engine == "vllm":
        yield "  export VLLM_NIXL_SIDE_CHANNEL_HOST=${hosts[RANK]}"
    if answer.node == 0:
        yield from (*_shared(prompt, "  "), *_shared(answer, "  "))
        yield "  wait -n"
    else:
        yield f'  if [ "$RANK" -lt {answer.node} ]; then  # prompts'
        yield from _part(prompt, "    ")
        yield "  else  # answers"
        yield from _part(answer, "    ")
        yield "  fi"
    yield "}"


def _part(part: Part, indent: str) -> Iterator[str]:
    each, start = nodes_of(part.plans, part.plan), f" + {part.node}" if part.node else ""
    if part.node:
        yield f"{indent}RANK=$((RANK - {part.node}))  # among the nodes of this part"
    if copies_on_a_node(part.plans, part.plan) > 1:
        yield from (*_shared(part, indent), f"{indent}wait -n")
        return
    if each == 1:
        yield f"{indent}local HEAD=${{hosts[RANK{start}]}}"
        yield _line(part, Node(0, HEAD, str(PORT), MODEL, part=part.kind), f"{indent}exec ")
        return
    yield f"{indent}local HEAD=${{hosts[RANK / {each} * {each}{start}]}}"
    yield f"{indent}RANK=$((RANK % {each}))  # among the nodes of this copy"
    yield f'{indent}if [ "$RANK" -eq 0 ]; then'
    yield _line(part, Node(0, HEAD, str(PORT), MODEL, part=part.kind), f"{indent}  exec ")
    yield f"{indent}else"
    yield _line(part, Node(1, HEAD, str(PORT), MODEL, counted=RANK, part=part.kind), f"{indent}  exec ")
    yield f"{indent}fi"


def _shared(part: Part, indent: str) -> Iterator[str]:
    """Copies that share a node, each with GPUs and ports of its own; the last node may have fewer."""
    on_a_node, gpus = copies_on_a_node(part.plans, part.plan), part.plan.layout.gpus
    yield f"{indent}for ((copy = 0; copy < {on_a_node} && RANK * {on_a_node} + copy < {part.plan.copies}; copy++)); do"
    first, last = (f"$((copy * {gpus} + {part.gpu + more}))" for more in (0, gpus - 1))
    yield f"{indent}  export {VISIBLE[part.plans.cluster.gpu.vendor]}=$(seq -s, {first} {last})"
    yield f"{indent}  local HEAD=localhost PORT=$(({PORT + part.place} + copy)) BOOTSTRAP=$(({BOOTSTRAP} + copy))"
    if part.plans.wish.engine == "vllm":
        yield f"{indent}  export VLLM_NIXL_SIDE_CHANNEL_PORT=$(({_SIDE_CHANNEL} + ({part.place} + copy) * 100))"
    node = Node(0, HEAD, PORT_MARK, MODEL, part=part.kind, bootstrap=BOOTSTRAP_MARK)
    yield _line(part, node, f"{indent}  ") + " &"
    yield f"{indent}done"


def _line(part: Part, node: Node, start: str) -> str:
    return shell_line(part.plans, part.plan, node, start)
