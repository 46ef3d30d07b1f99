"""What the /commands do to a conversation."""

import json
from pathlib import Path

import pytest

from terascope.cli.conversation import COMMANDS, Conversation, Next, obey, setting
from terascope.core.errors import BadRequest, Conflict, ModelNotFound, ServiceError


def _check(model: str) -> None:
    if model != "other":
        raise ModelNotFound(f"there is no model {model}")


def _obey(line: str, talk: Conversation) -> str:
    obeyed = obey(line, talk, _check)
    assert obeyed.next is Next.READ
    return obeyed.text


def _talk(*texts: str) -> Conversation:
    """A conversation of these questions, each answered in capitals."""
    talk = Conversation("m")
    for text in texts:
        talk.ask(text)
        talk.answered(text.upper())
    return talk


def _said(talk: Conversation) -> list[str]:
    return [one["content"] for one in talk.messages]


def test_a_conversation_goes_back_and_forth() -> None:
    talk = _talk("a", "b")
    assert talk.messages == [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "A"},
        {"role": "user", "content": "b"}, {"role": "assistant", "content": "B"},
    ]  # fmt: skip


def test_a_question_without_an_answer_gives_way_to_the_next() -> None:
    talk = _talk("a")
    talk.ask("lost")
    talk.answered("")
    talk.ask("b")
    assert _said(talk) == ["a", "A", "b"]


def test_the_system_text_comes_first() -> None:
    talk = _talk("a")
    assert _obey("/system Be  brief.", talk) == "the system text is set"
    assert talk.messages[0] == {"role": "system", "content": "Be  brief."}
    _obey("/clear", talk)
    assert _said(talk) == ["Be  brief."]
    _obey("/system", talk)
    assert _said(talk) == []


def test_undo_takes_question_and_answer_back() -> None:
    talk = _talk("a", "b")
    assert _obey("/undo", talk) == "taken back: b"
    assert _said(talk) == ["a", "A"]
    talk.ask("c")
    assert _obey("/undo", talk) == "taken back: c"
    assert _obey("/undo", talk) == "taken back: a"
    with pytest.raises(BadRequest, match="nothing to undo"):
        obey("/undo", talk, _check)


def test_retry_asks_the_last_question_again() -> None:
    talk = _talk("a", "b")
    assert obey("/retry", talk, _check).next is Next.ASK
    assert obey("/retry", talk, _check).next is Next.ASK
    assert _said(talk) == ["a", "A", "b"]
    with pytest.raises(BadRequest, match="no question"):
        obey("/retry", Conversation("m"), _check)


def test_another_model() -> None:
    talk = _talk()
    assert _obey("/model", talk) == "m"
    _obey("/model other", talk)
    assert talk.model == "other"
    with pytest.raises(ModelNotFound):
        obey("/model none", talk, _check)
    assert talk.model == "other"


def test_settings() -> None:
    talk = _talk()
    assert "try /set temperature" in _obey("/set", talk)
    assert _obey("/set temperature 0.2", talk) == "temperature is 0.2"
    _obey('/set stop ["a b"]', talk)
    _obey("/set user me and you", talk)
    assert talk.fields == {"temperature": 0.2, "stop": ["a b"], "user": "me and you"}
    assert _obey("/set", talk) == 'temperature 0.2\nstop ["a b"]\nuser "me and you"'
    _obey("/set stop", talk)
    assert "stop" not in talk.fields
    _obey("/set stop", talk)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("temprature", "1", "did you mean temperature?"),
        ("model", "x", "model cannot be set here; there are "),
        ("stream", "false", "stream cannot be set here"),
        ("temperature", "-1", "temperature: Input should be greater than or equal to 0"),
        ("max_tokens", "many", "max_tokens: "),
    ],
)
def test_what_cannot_be_set(name: str, text: str, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        setting(name, text)
    assert says in str(caught.value)


def test_saving(tmp_path: Path) -> None:
    talk = _talk("Grüße")
    talk.system, talk.fields = "Be brief.", {"temperature": 0.2}
    path = tmp_path / "talk.json"
    _obey(f"/save {path}", talk)
    assert json.loads(path.read_text()) == {"temperature": 0.2, "model": "m", "messages": talk.messages}
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict, match="is there already"):
        obey(f"/save {path}", talk, _check)
    with pytest.raises(BadRequest, match="say where"):
        obey("/save", talk, _check)


def test_help_lists_every_command() -> None:
    told = _obey("/help", _talk()).splitlines()
    assert [line.split()[0] for line in told] == [*COMMANDS]


def test_quit() -> None:
    assert obey("/quit", _talk(), _check).next is Next.QUIT


@pytest.mark.parametrize(("line", "says"), [("/retyr", "did you mean /retry?"), ("/usr/bin", "begin with //")])
def test_an_unknown_command(line: str, says: str) -> None:
    with pytest.raises(ServiceError) as caught:
        obey(line, _talk(), _check)
    assert says in str(caught.value)
