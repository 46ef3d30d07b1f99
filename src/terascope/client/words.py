"""What can be asked about a model's tokens."""

from collections.abc import Sequence

from terascope.client.ask import Ask, Noun, Sender, call
from terascope.protocol.openai import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse


class Words(Noun[Sender]):
    """Texts as tokens, and tokens as texts."""

    @call
    def tokens(self, model: str, text: str, *, special: bool | None = None) -> Ask[TokenizeResponse]:
        """Return the tokens of a text; with `special`, those that the model's tokenizer puts around a prompt."""
        return Ask(
            "POST", "/tokenize", TokenizeResponse, TokenizeRequest(model=model, prompt=text, add_special_tokens=special)
        )

    @call
    def texts(self, model: str, tokens: Sequence[int]) -> Ask[DetokenizeResponse]:
        """Return the text of tokens: together as `prompt`, of each alone as `pieces`, None where an engine has none."""
        return Ask(
            "POST",
            "/detokenize",
            DetokenizeResponse,
            DetokenizeRequest(model=model, tokens=[*tokens], return_pieces=True),
        )
