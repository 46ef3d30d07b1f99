"""Every table, as SQLAlchemy Core metadata; `migrations/versions` brings a database to this shape.

Times are seconds since the epoch (UTC), as `Clock.now` gives them.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("prefix", String(20), nullable=False),  # the start of the key, to recognise it by
    Column("sha256", String(64), nullable=False, unique=True),  # of the whole key; the key itself is never stored
    Column("scopes", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("revoked", Float),
    Column("user_id", String(200), nullable=False, server_default=""),  # whose it is
    Column("project", String(64), nullable=False, server_default="local"),  # who pays unless the request says
    Column("confined", Boolean, nullable=False, server_default=false()),  # whether it works in that project only
)
Index("ix_keys_project", keys.c.project)

service_accounts = Table(
    "service_accounts",
    metadata,
    Column("project", ForeignKey("projects.name"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("title", String(200), nullable=False),
    Column("created", Float, nullable=False),
    Column("created_by", String(200), nullable=False),
)

identities = Table(
    "identities",
    metadata,
    Column("user_id", String(200), primary_key=True),
    Column("issuer", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("roles", JSON, nullable=False),  # by project, as the groups of the newest token say
    Column("operator", Boolean, nullable=False),
    Column("issued", Float, nullable=False),  # when that token was
)

projects = Table(
    "projects",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("title", String(200), nullable=False),
    Column("created", Float, nullable=False),
    Column("closed", Float),
    Column("shares", Integer, nullable=False, server_default="1"),  # of every model, beside those of other projects
)

members = Table(
    "members",
    metadata,
    Column("project", ForeignKey("projects.name"), primary_key=True),
    Column("user_id", String(200), primary_key=True),
    Column("role", String(20), nullable=False),
    Column("added", Float, nullable=False),
)
Index("ix_members_user_id", members.c.user_id)

policies = Table(
    "policies",
    metadata,
    Column("project", ForeignKey("projects.name"), primary_key=True),
    Column("model", String(200), primary_key=True),  # `*`, a name, or name@version
    Column("modes", JSON, nullable=False),
    Column("qos", JSON, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("version", String(64), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("source", Text, nullable=False),
    Column("directory", Text, nullable=False),
    Column("task", String(20), nullable=False),
    Column("context_length", Integer, nullable=False),
    Column("files", JSON, nullable=False),
    Column("architecture", String(100), nullable=False),
    Column("parameters", BigInteger, nullable=False),
    Column("licence", String(100), nullable=False),
    Column("chat_template_sha256", String(64), nullable=False),
    Column("tokenizer_sha256", String(64), nullable=False),
    Column("life_cycle", String(20), nullable=False),
    Column("created", Float, nullable=False),
    Column("active_parameters", BigInteger, nullable=False, server_default="0"),  # 0: as many as `parameters`
    Column("price_prompt", BigInteger),  # micro service units a token; NULL: by the formula
    Column("price_output", BigInteger),
    Column("parent", String(200), nullable=False, server_default=""),  # name@version that an adapter adds to
    Column("owner", String(64), nullable=False, server_default=""),  # the project that alone may use it
)

aliases = Table(
    "aliases",
    metadata,
    Column("alias", String(128), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("version", String(64), nullable=False),  # empty: the newest version of `name`
    Column("moved", Float, nullable=False),
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("deployment", String(128), nullable=False, index=True),
    Column("model", String(200), nullable=False),  # name@version
    Column("engine", String(40), nullable=False),
    Column("launcher", String(40), nullable=False),
    Column("status", String(20), nullable=False),
    Column("target", String(20), nullable=False),
    Column("url", Text, nullable=False),
    Column("handle", JSON, nullable=False),  # what the launcher needs to find and stop it: a pid, a job id
    Column("message", Text, nullable=False),
    Column("restarts", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("changed", Float, nullable=False),
    Column(
        "agent_hash", String(64), nullable=False, server_default="", index=True
    ),  # of the token that its agent shows
)

replica_events = Table(
    "replica_events",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("time", Float, nullable=False),
    Column("deployment", String(128), nullable=False),
    Column("replica", String(40), nullable=False),
    Column("status", String(20), nullable=False),
    Column("message", Text, nullable=False),
    Index("ix_replica_events_deployment_time", "deployment", "time"),
)

deployments = Table(
    "deployments",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("settings", JSON, nullable=False),  # a DeploymentConfig
    Column("target", String(20), nullable=False),
    Column("created", Float, nullable=False),
    Column("changed", Float, nullable=False),
)

starts = Table(
    "starts",
    metadata,
    Column("id", String(40), primary_key=True),  # of the replica
    Column("deployment", String(128), nullable=False, index=True),
    Column("model", String(200), nullable=False),  # name@version
    Column("launcher", String(40), nullable=False),
    Column("ready", Float, nullable=False),
    Column("queue_s", Float, nullable=False),
    Column("load_s", Float, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("started", Float, nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("endpoint", String(40), nullable=False),
    Column("model", String(200), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("replica", String(40), nullable=False),
    Column("engine", String(80), nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("outcome", String(20), nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", String(60), nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False, server_default="0"),
    Column("queued_s", Float, nullable=False),
    Column("first_s", Float, nullable=False),
    Column("total_s", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("project", String(64), nullable=False, server_default=""),
    Column("user_id", String(200), nullable=False, server_default=""),
    Column("cost", BigInteger, nullable=False, server_default="0"),  # micro service units
    # ids begin with the time, so that the key's own order is the order of time and few pages change with a record
    sqlite_with_rowid=False,
)
Index("ix_runs_key_id_id", runs.c.key_id, runs.c.id)

allocations = Table(
    "allocations",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("project", ForeignKey("projects.name"), nullable=False, index=True),
    Column("unlimited", Boolean, nullable=False),
    Column("balance", BigInteger, nullable=False),  # micro service units, the sum of its entries
    Column("held", BigInteger, nullable=False),  # the sum of its holds
    Column("starts", Float, nullable=False),
    Column("ends", Float),
    Column("note", String(200), nullable=False),
    Column("created", Float, nullable=False),
    CheckConstraint("held >= 0", name="held"),
    CheckConstraint("unlimited OR balance >= held", name="overspent"),
)

holds = Table(
    "holds",
    metadata,
    Column("id", String(40), primary_key=True),  # of the request
    Column("allocation", ForeignKey("allocations.id"), primary_key=True),
    Column("amount", BigInteger, nullable=False),
    Column("expires", Float, nullable=False),  # without an index: there are only those of requests that run
    sqlite_with_rowid=False,
)

entries = Table(
    "entries",
    metadata,
    Column("id", String(60), primary_key=True),  # of the request for a charge, or of the first of several
    Column("allocation", ForeignKey("allocations.id"), primary_key=True),
    Column("project", String(64), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("time", Float, nullable=False),
    Column("day", Integer, nullable=False),  # since the epoch, UTC
    Column("user_id", String(200), nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("model", String(200), nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("note", String(200), nullable=False),
    Column("requests", Integer, nullable=False, server_default="1"),  # that a charge is of
    Column("portions", Text, nullable=False, server_default=""),  # of several: `Portion`s, as JSON; else empty
    sqlite_with_rowid=False,
)
Index("ix_entries_project_day", entries.c.project, entries.c.day)

charges = Table(  # of requests that are over, not yet in `entries`; few, for they are entered in a moment
    "charges",
    metadata,
    Column("id", String(40), nullable=False),  # of the first of them; no key: all are read, and each commit writes one
    Column("charges", Text, nullable=False),  # those of one commit: `Charge`s, as JSON
)

reservations = Table(
    "reservations",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("project", ForeignKey("projects.name"), nullable=False),
    Column("model", String(200), nullable=False),  # a name for all its versions, or name@version
    Column("slots", Integer, nullable=False),
    Column("starts", Float, nullable=False),
    Column("ends", Float, nullable=False, index=True),
    Column("note", String(200), nullable=False),
    Column("created", Float, nullable=False),
)

files = Table(
    "files",
    metadata,
    Column("id", String(40), primary_key=True),  # the name of its content in the store of files, too
    Column("project", ForeignKey("projects.name"), nullable=False),
    Column("user_id", String(200), nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("purpose", String(40), nullable=False),
    Column("filename", String(400), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, index=True),
)
Index("ix_files_project_id", files.c.project, files.c.id)

artefacts = Table(
    "artefacts",
    metadata,
    Column("project", ForeignKey("projects.name"), primary_key=True),
    Column("kind", String(20), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("version", String(64), primary_key=True),
    Column("model", String(200), nullable=False),  # the name@version that it was made for
    Column("digest", String(64), nullable=False),  # of its bytes, which are in the data directory
    Column("size", BigInteger, nullable=False),
    Column("shape", JSON, nullable=False),
    Column("activation", String(20), nullable=False),
    Column("shared_with", JSON, nullable=False),  # projects that may use it besides its own
    Column("note", String(200), nullable=False),
    Column("created", Float, nullable=False),
    Column("created_by", String(200), nullable=False),
)

fine_tuning_jobs = Table(
    "fine_tuning_jobs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("run_id", String(40), nullable=False),  # of its run record and of its hold
    Column("project", ForeignKey("projects.name"), nullable=False),
    Column("user_id", String(200), nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("created", Float, nullable=False),
    Column("started", Float),  # when its trainer was first started
    Column("finished", Float),
    Column("status", String(20), nullable=False),
    Column("method", String(20), nullable=False),
    Column("asked_as", String(20), nullable=False),  # what the request called the method
    Column("base", String(200), nullable=False),  # name@version
    Column("digest", String(64), nullable=False),  # of the base's files
    Column("training_file", String(60), nullable=False),
    Column("validation_file", String(60), nullable=False),
    Column("suffix", String(64), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("tags", JSON, nullable=False),  # the request's `metadata`
    Column("data_digest", String(64), nullable=False),  # of the training file
    Column("most_tokens", BigInteger, nullable=False),  # that it can come to, trained and measured, as they are priced
    Column("step", Integer, nullable=False),
    Column("steps", Integer, nullable=False),  # 0: not known yet
    Column("step_s", Float, nullable=False),  # that the last step took
    Column("tokens", BigInteger, nullable=False),  # trained
    Column("measured", BigInteger, nullable=False),  # tokens of held-out lines
    Column("loss", Float),  # of the last step
    Column("held_out_loss", Float),  # the last
    Column("saved", Integer, nullable=False),  # the step of the newest checkpoint
    Column("read", BigInteger, nullable=False),  # bytes of the trainer's progress that are in the events
    Column("handle", JSON, nullable=False),  # what the launcher needs to stop the trainer
    Column("result", String(300), nullable=False),
    Column("metrics_file", String(60), nullable=False),  # the losses as a file of the project; empty: none
    Column("error", JSON, nullable=False),  # code, message, param; empty when there is none
)
Index("ix_fine_tuning_jobs_project_id", fine_tuning_jobs.c.project, fine_tuning_jobs.c.id)

fine_tuning_events = Table(
    "fine_tuning_events",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("job", ForeignKey("fine_tuning_jobs.id"), nullable=False),
    Column("time", Float, nullable=False),
    Column("level", String(10), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON, nullable=False),
)
Index("ix_fine_tuning_events_job_kind_id", fine_tuning_events.c.job, fine_tuning_events.c.kind, fine_tuning_events.c.id)
vector_stores = Table(
    "vector_stores",
    metadata,
    Column("id", String(40), primary_key=True),  # the name of its collection in the data directory, too
    Column("project", ForeignKey("projects.name"), nullable=False),
    Column("user_id", String(200), nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("name", String(256), nullable=False),
    Column("model", String(200), nullable=False),  # name@version that makes its vectors
    Column("width", Integer, nullable=False),  # of the vectors; 0 until there is one
    Column("version", BigInteger, nullable=False),  # the newest; 0 has nothing in it
    Column("kept", BigInteger, nullable=False),  # the oldest that can be asked for
    Column("labels", JSON, nullable=False),  # `metadata` of the API
    Column("lasts_days", Integer),  # after `active`; NULL: for ever
    Column("created", Float, nullable=False),
    Column("active", Float, nullable=False),
)
Index("ix_vector_stores_project_id", vector_stores.c.project, vector_stores.c.id)

vector_store_files = Table(
    "vector_store_files",
    metadata,
    Column("store", ForeignKey("vector_stores.id", ondelete="CASCADE"), primary_key=True),
    Column("file", String(40), primary_key=True),
    Column("attempt", String(40), nullable=False),  # which asking for it this is; it sorts by time
    Column("batch", String(40), nullable=False),
    Column("user_id", String(200), nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("filename", String(400), nullable=False),
    Column("status", String(20), nullable=False),
    Column("error", String(40), nullable=False),
    Column("message", Text, nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("strategy", String(10), nullable=False),
    Column("size", Integer, nullable=False),  # tokens of a passage, and how many of them two share
    Column("overlap", Integer, nullable=False),
    Column("usage", BigInteger, nullable=False),  # bytes
    Column("passages", Integer, nullable=False),
    Column("created", Float, nullable=False),
)
Index("ix_vector_store_files_status", vector_store_files.c.status)
Index("ix_vector_store_files_batch", vector_store_files.c.batch)

vector_store_batches = Table(
    "vector_store_batches",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("store", ForeignKey("vector_stores.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("cancelled", Boolean, nullable=False),
    Column("created", Float, nullable=False),
)

vector_store_versions = Table(
    "vector_store_versions",
    metadata,
    Column("store", ForeignKey("vector_stores.id", ondelete="CASCADE"), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("used", Float, nullable=False),  # when it was last the newest, or was asked for later
)

audit = Table(
    "audit",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("time", Float, nullable=False),
    Column("action", String(40), nullable=False),
    Column("target", String(400), nullable=False),
    Column("details", JSON, nullable=False),
    Column("user_id", String(200), nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("address", String(100), nullable=False),
)

__all__ = [
    "aliases",
    "allocations",
    "artefacts",
    "audit",
    "charges",
    "entries",
    "files",
    "fine_tuning_events",
    "fine_tuning_jobs",
    "holds",
    "identities",
    "keys",
    "members",
    "metadata",
    "models",
    "policies",
    "projects",
    "replica_events",
    "replicas",
    "reservations",
    "runs",
    "service_accounts",
    "vector_store_batches",
    "vector_store_files",
    "vector_store_versions",
    "vector_stores",
]
