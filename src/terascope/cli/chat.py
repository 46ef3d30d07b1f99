"""`terascope chat`: talk with a model in the terminal."""

import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from terascope.cli.app import one_line
from terascope.cli.connection import with_client
from terascope.cli.conversation import COMMANDS, Conversation, Next, Obeyed, obey
from terascope.cli.show import clean
from terascope.client import ChatStream, Client
from terascope.core.errors import ModelNotFound, ServiceError
from terascope.core.models import Mode

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@with_client
def chat(
    client: Client,
    model: Annotated[str, typer.Argument(help="Model, NAME or NAME@VERSION.", show_default="the first ready one")] = "",
    system: Annotated[str, typer.Option(help="System text.")] = "",
    stats: Annotated[bool, typer.Option("--stats", help="Show tokens and speed after each answer.")] = False,
) -> None:
    """Talk with a model in the terminal.

    Each line is a question; /help lists the commands. Ctrl-C stops an answer and keeps what was said, Ctrl-D ends.
    Lines from a pipe are asked one after the other, and only the answers go to the output.
    """
    talk = Conversation(model or default_model(client), system)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        Session(client, talk, stats=stats, interactive=False).run(sys.stdin)
        return
    print(f"{talk.model} at {client.url}. /help lists the commands, Ctrl-D ends.")
    signal.signal(signal.SIGINT, lambda *_: None)  # until an answer comes: between two prompts, Ctrl-C means nothing
    Session(client, talk, stats=stats, interactive=True).run(_typed())


def default_model(client: Client) -> str:
    """The first model that answers questions: one that is ready, else one on its way. Raises `ModelNotFound`."""
    cards = [card for card in client.models.list().data if Mode.QUERY in card.modes and card.alias_of is None]
    for card in sorted(cards, key=lambda card: card.state != "ready"):
        return card.id
    raise ModelNotFound("no model that answers questions is served here; `terascope models list` shows what there is")


class Session:
    """Reads lines, does what they say, writes answers.

    When not `interactive`, the first error ends it, and everything but the answers goes to stderr.
    """

    def __init__(self, client: Client, talk: Conversation, *, stats: bool, interactive: bool) -> None:
        self._client = client
        self._talk = talk
        self._stats = stats
        self._interactive = interactive

    def run(self, lines: Iterable[str]) -> None:
        """Take lines until they end or one says /quit."""
        for line in lines:
            try:
                with _ctrl_c_stops():
                    if line.strip() and not self._take(line.rstrip("\r\n")):
                        return
            except ServiceError as error:
                if not self._interactive:
                    raise
                self._note(f"! {one_line(error)}")
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                self._note("(stopped; /retry asks again)")

    def _take(self, line: str) -> bool:
        """Do what one line says; return False when that was to end."""
        if line.startswith("/") and not line.startswith("//"):
            obeyed = obey(line, self._talk, self._check)
        else:
            self._talk.ask(line[1:] if line.startswith("//") else line)
            obeyed = Obeyed(next=Next.ASK)
        if obeyed.text:
            self._note(obeyed.text)
        if obeyed.next is Next.ASK:
            self._answer()
        return obeyed.next is not Next.QUIT

    def _check(self, model: str) -> None:
        self._client.models.get(model)

    def _answer(self) -> None:
        talk = self._talk
        asked = time.monotonic()
        with self._client.chat(talk.model, talk.messages, **talk.fields) as stream:
            try:
                first = self._write(stream)
            finally:
                talk.answered(stream.text)
                print(flush=True)
        if self._stats:
            self._note(speed(stream.usage or {}, first - asked, time.monotonic() - first))

    def _write(self, stream: ChatStream) -> float:
        """Write the answer as it comes; return when its first piece did."""
        first = 0.0
        for piece in stream:
            first = first or time.monotonic()
            sys.stdout.write(clean(piece) if self._interactive else piece)
            sys.stdout.flush()
        return first or time.monotonic()

    def _note(self, text: str) -> None:
        typer.secho(clean(text), dim=True, err=not self._interactive)


@contextmanager
def _ctrl_c_stops() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def speed(usage: dict[str, int], wait_s: float, answer_s: float) -> str:
    """One line on what an answer took. The first token is the wait's, the others make the speed."""
    tokens = usage.get("completion_tokens", 0)
    rate = f", {(tokens - 1) / answer_s:.1f} tokens/s" if tokens > 1 and answer_s > 0 else ""
    return f"{usage.get('prompt_tokens', 0)} + {tokens} tokens, first after {wait_s:.2f} s{rate}"


def _typed() -> Iterator[str]:
    """Lines as a person types them: edited, with the earlier ones at hand; Alt-Enter begins a new line."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    words = WordCompleter(list(COMMANDS), sentence=True)
    session: PromptSession[str] = PromptSession("> ", completer=words, complete_while_typing=False, key_bindings=keys)
    while True:
        try:
            yield session.prompt()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
