"""A conversation, and what its /commands do to it. Nothing here reads or writes the terminal."""

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from terascope.cli.files import private_file
from terascope.core.errors import BadRequest
from terascope.protocol.openai import ChatCompletionRequest

_OWN = ("model", "messages", "stream", "stream_options", "n")


@dataclass
class Conversation:
    """What was said so far, and how the next answer is asked for.

    `said` alternates between user and assistant; a question without an answer can only be the last.
    """

    model: str
    system: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    said: list[dict[str, str]] = field(default_factory=list)

    @property
    def messages(self) -> list[dict[str, str]]:
        """What the model is sent."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.said]

    def ask(self, text: str) -> None:
        """Add a question, in place of one that got no answer."""
        self.retract()
        self.said.append({"role": "user", "content": text})

    def answered(self, text: str) -> None:
        """Add what came of the answer, be it cut short; nothing is no answer."""
        if text:
            self.said.append({"role": "assistant", "content": text})

    def retract(self) -> None:
        """Drop a last question that has no answer."""
        if self.said and self.said[-1]["role"] == "user":
            self.said.pop()

    def reopen(self) -> None:
        """Drop the last answer, so that its question can be asked again."""
        if self.said and self.said[-1]["role"] == "assistant":
            self.said.pop()


class Next(Enum):
    """What follows a command."""

    READ = "read the next line"
    ASK = "ask the model"
    QUIT = "end"


@dataclass(frozen=True, slots=True)
class Obeyed:
    """What a command has to say, and what follows."""

    text: str = ""
    next: Next = Next.READ


CheckModel = Callable[[str], None]
"""Raises `ModelNotFound` when a model is not served."""


def obey(line: str, talk: Conversation, check: CheckModel) -> Obeyed:
    """Do what `line`, which begins with `/`, says. Raises a `ServiceError` that says why not."""
    name, _, argument = line.partition(" ")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else "/help lists them; begin with // for a text that begins with /"
        raise BadRequest(f"there is no command {name}; {hint}")
    return COMMANDS[name][2](talk, argument.strip(), check)


def _help(talk: Conversation, argument: str, check: CheckModel) -> Obeyed:
    usages = [(f"{name} {usage}", about) for name, (usage, about, _) in COMMANDS.items()]
    return Obeyed("\n".join(f"{usage:20}{about}" for usage, about in usages))


def _clear(talk: Conversation, argument: str, check: CheckModel) -> Obeyed:
    talk.said.clear()
    return Obeyed("a new conversation; the system text and the settings stay")


def _system(talk: Conversation, argument: str, check: CheckModel) -> Obeyed:
    talk.system = argument
    return Obeyed("the system text is set" if argument else "there is no system text now")


def _model(talk: Conversation, argument: str, check: CheckModel) -> Obeyed:
    if not argument:
        return Obeyed(talk.model)
    check(argument)
    talk.model = argument
    return Obeyed(f"{argument} answers from now on")


def _set(talk: Conversation, argument: str, check: CheckModel) -> Obeyed:
    name, _, text = argument.partition(" ")
    if not name:
        shown = "\n".join(f"{name} {json.dumps(value)}" for name, value in talk.fields.items())
        return Obeyed(shown or "nothing is set; try /set temperature 0.2")
    if not text.strip():
        talk.fields.pop(name, None)
        return Obeyed(f"{name} is as the model has it by default")
    talk.fields[name] = setting(name, text.strip())
    return Obeyed(f"{name} is {json.dumps(talk.fields[name])}")


def setting(name: str, text: str) -> Any:
    """Read the value of a field of the API: JSON, or else the text itself. Raises `BadRequest` where it cannot be."""
    known = [one for one in ChatCompletionRequest.model_fields if one not in _OWN]
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise BadRequest(f"{name} cannot be set here; {hint}")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    question = {"model": "any", "messages": [{"role": "user", "content": "any"}]}
    try:
        ChatCompletionRequest.model_validate(question | {name: value})
    except ValidationError as error:
        raise BadRequest(f"{name}: {error.errors()[0]['msg']}", param=name) from None
    return value


def _undo(talk: Conversation, argument: str, check: CheckModel) -> Obeyed:
    if not talk.said:
        raise BadRequest("there is nothing to undo")
    talk.reopen()
    question = talk.said[-1]["content"] if talk.said else ""
    talk.retract()
    return Obeyed(f"taken back: {question}")


def _retry(talk: Conversation, argument: str, check: CheckModel) -> Obeyed:
    if not talk.said:
        raise BadRequest("there is no question to ask again")
    talk.reopen()
    return Obeyed(next=Next.ASK)


def _save(talk: Conversation, argument: str, check: CheckModel) -> Obeyed:
    if not argument:
        raise BadRequest("say where to: /save FILE")
    with private_file(Path(argument).expanduser()) as file:
        body = talk.fields | {"model": talk.model, "messages": talk.messages}
        file.write(json.dumps(body, indent=2, ensure_ascii=False) + "\n")
    return Obeyed(f"the conversation is in {argument}, as the body of a request")


def _quit(talk: Conversation, argument: str, check: CheckModel) -> Obeyed:
    return Obeyed(next=Next.QUIT)


COMMANDS: dict[str, tuple[str, str, Callable[[Conversation, str, CheckModel], Obeyed]]] = {
    "/help": ("", "show this", _help),
    "/clear": ("", "begin a new conversation", _clear),
    "/system": ("TEXT", "set the system text; without TEXT, remove it", _system),
    "/model": ("NAME", "let another model answer", _model),
    "/set": ("FIELD VALUE", "set a field of the request, such as temperature 0.2; without VALUE, unset it", _set),
    "/undo": ("", "take the last question and its answer back", _undo),
    "/retry": ("", "ask the last question again", _retry),
    "/save": ("FILE", "write the conversation to a new file, as JSON", _save),
    "/quit": ("", "end; so does Ctrl-D", _quit),
}
