"""The program: its table of nouns, and how a failure is told."""

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from terascope._version import __version__
from terascope.core.errors import ServiceError

INTERRUPTED = 130

NOUNS: dict[str, tuple[str, str]] = {
    "serve": ("terascope.cli.serve_command", "Run the gateway and its engines until Ctrl-C."),
    "chat": ("terascope.cli.chat", "Talk with a model in the terminal."),
    "login": ("terascope.cli.login", "Sign in at the gateway's issuer; the commands and the SDK then act as you."),
    "logout": ("terascope.cli.logout", "Forget the login at the gateway, and tell the issuer so."),
    "whoami": ("terascope.cli.whoami", "Show who one is at the gateway, and what one may do."),
    "models": ("terascope.cli.models", "Models: what is served, and what the catalogue holds."),
    "deploy": ("terascope.cli.deploy", "Deployments: which models are served, by which engine, where, and how often."),
    "status": ("terascope.cli.status", "Show deployments, replicas, what they answer and who waits, until Ctrl-C."),
    "apply": (
        "terascope.cli.apply",
        "Make the gateway's models and deployments what a file says; say what had to be done.",
    ),
    "adapters": ("terascope.cli.adapters", "Adapters: what is added to a model for the requests that ask for it."),
    "sites": (
        "terascope.cli.sites",
        "List the sites of a model: where a plan can look and change, with the shape of what is there for a token.",
    ),
    "keys": ("terascope.cli.keys", "API keys: who may ask."),
    "service-accounts": (
        "terascope.cli.service_accounts",
        "Service accounts: users that are no person, each of one project.",
    ),
    "projects": ("terascope.cli.projects", "Projects: who may use which models, and how."),
    "members": ("terascope.cli.members", "Members of projects and their roles: pi, member or auditor."),
    "allocations": ("terascope.cli.allocations", "Allocations: the service units of projects."),
    "reservations": ("terascope.cli.reservations", "Reservations: slots of a model that a project holds for a time."),
    "softprompts": ("terascope.cli.softprompts", "Soft prompts: vectors of a project that stand before a prompt."),
    "projectors": (
        "terascope.cli.projectors",
        "Projectors: small networks from a project's own vectors to a model's.",
    ),
    "usage": (
        "terascope.cli.usage",
        "Show what was used: everybody's for an operator, of one's project for a PI and an auditor, else one's own.",
    ),
    "audit": ("terascope.cli.audit", "Show who changed access or money: what, when, from where; newest first."),
    "capture": (
        "terascope.cli.capture",
        "Bring what is inside a model at each prompt into a dataset; one that was cut short is continued.",
    ),
    "tune": (
        "terascope.cli.tune",
        "Fine-tuning: LoRA adapters, soft prompts and projectors, trained on one's own data.",
    ),
    "files": ("terascope.cli.stored", "Files: uploads, and results that were kept; they belong to projects."),
    "vector-stores": (
        "terascope.cli.vector_stores",
        "Vector stores: files of projects, found by meaning, for searches and chats.",
    ),
    "runs": ("terascope.cli.runs", "Run records: what was asked, of which weights, how it went."),
    "plan": (
        "terascope.cli.plan",
        "Plan how to serve a model: what fits, how fast, at what cost, and what to type.",
    ),
    "plan check": (
        "terascope.cli.plan_check",
        "Compare a served model with its plan: cache, time to the first token, between tokens, and throughput.",
    ),
    "calibrate": (
        "terascope.cli.calibrate",
        "Time a GPU at the shapes of a model of a trillion parameters, and keep the constants for `terascope plan`.",
    ),
    "backup": (
        "terascope.cli.backup",
        "Write a gateway's whole state, as it is at one moment, into FILE; it may run meanwhile.",
    ),
    "restore": (
        "terascope.cli.restore",
        "Make the state of a gateway what FILE says, all of it or nothing; it must not run.",
    ),
    "doctor": ("terascope.cli.doctor", "Check the machine, the configuration and each model, and say what to do."),
    "version": ("terascope.cli.version", "Show the versions of Terascope and of what it runs on."),
    "agent": (
        "terascope.cli.agent",
        "Keep a tunnel to the gateway open until SIGINT or SIGTERM; jobs of sites with `reach: tunnel` start it.",
    ),
    "worker": ("terascope.cli.worker", "Run the torch engine's server; `serve` starts it by itself."),
}
"""Name, module and help. A module is imported when its noun is used, so that `terascope --help` loads none."""


@dataclass
class State:
    """What the options before the noun said."""

    debug: bool = False


class Nouns(TyperGroup):
    """Knows every noun by name and help, and imports the one that is used."""

    def __init__(self, **settings: Any) -> None:
        shown = {name: TyperCommand(name, help=about) for name, (_, about) in NOUNS.items()}
        super().__init__(**settings | {"commands": shown})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if " ".join(args[:2]) in NOUNS:  # `plan` takes models, so a verb of it is a noun of its own here
            args = [" ".join(args[:2]), *args[2:]]
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(name) if name else None, rest


def load(name: str) -> Any:
    """Import a noun's module and return its command."""
    command = get_command(import_module(NOUNS[name][0]).app)
    command.name = name
    return command


def _show_version(asked: bool) -> None:
    if asked:
        print(f"terascope {__version__}")
        raise typer.Exit


app = typer.Typer(cls=Nouns, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Very large models as a shared scientific instrument.

    The gateway is found by --url and --key, TERASCOPE_URL and TERASCOPE_API_KEY, or, on its own machine, by its
    data directory. Without a key it is the login of `terascope login` that counts.
    """
    context.obj.debug = debug


def run(arguments: Sequence[str]) -> int:
    """Run one command; return the exit status: 0, 1 for a failure, 2 for a wrong command line, 130 for Ctrl-C."""
    state = State()
    try:
        status = get_command(app).main([*arguments] or ["--help"], "terascope", standalone_mode=False, obj=state)
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    except typer.TyperException as error:
        return _tell(_usage(error), 2)
    except typer.Abort:
        return _tell("interrupted", INTERRUPTED)
    except ServiceError as error:
        return _tell(one_line(error), _trace(state))
    except Exception as error:  # noqa: BLE001 - the process's edge: one line for the user, the rest by --debug
        status = _trace(state)
        return _tell(f"unexpected {type(error).__name__}: {error}; `terascope --debug ...` shows where", status)
    return _tell("interrupted", INTERRUPTED) if status == INTERRUPTED else status or 0


def _tell(message: str, status: int) -> int:
    print(f"terascope: {' '.join(message.split())}", file=sys.stderr)
    return status


def one_line(error: ServiceError) -> str:
    """The message; where the gateway's log has more, with the id that finds it there."""
    return (
        f"{error.message} (request {error.request_id})" if error.request_id and error.status >= 500 else error.message
    )


def _usage(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "terascope"
    return f"{error.format_message().rstrip('.')}; see `{where} --help`"


def _trace(state: State) -> int:
    if state.debug:
        traceback.print_exc()
    return 1


def _reader_left() -> int:
    """Whoever read our output has enough, such as `head`: nothing to tell, and nothing more to flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
