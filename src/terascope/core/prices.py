"""What tokens cost, in service units.

A service unit is a thousand answer tokens of a model with a billion active parameters. An answer token costs in
proportion to the active parameters, which are read once for each; a prompt token a quarter of that, since prompts are
computed many tokens at a time. Amounts are whole micro service units, so that sums are exact.
"""

from dataclasses import dataclass

MICRO = 1_000_000
"""Micro service units in a service unit."""
_PARAMETERS_PER_MICRO = 1_000_000
_PROMPT_SHARE = 4
_UNKNOWN = 1_000_000_000  # active parameters of a model that does not say


@dataclass(frozen=True, slots=True)
class Price:
    """Micro service units for one token of the prompt and of the answer: service units for a million of them."""

    prompt: int
    output: int

    def cost(self, prompt_tokens: int, output_tokens: int) -> int:
        """What so many tokens cost, in micro service units."""
        return self.prompt * prompt_tokens + self.output * output_tokens


FREE = Price(0, 0)


def formula(active_parameters: int) -> Price:
    """The price of a model with so many active parameters; 0 stands for a model that does not say."""
    active = active_parameters or _UNKNOWN
    output = max(1, active // _PARAMETERS_PER_MICRO)
    return Price(max(1, output // _PROMPT_SHARE), output)


def units(micro: int) -> float:
    """Micro service units as service units, to show."""
    return micro / MICRO


def micro(units: float) -> int:
    """Service units, as people write them, in micro service units."""
    return round(units * MICRO)
