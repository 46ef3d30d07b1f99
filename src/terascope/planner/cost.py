"""What tokens cost: money, energy, and service units."""

from dataclasses import dataclass

from terascope.core.errors import BadRequest
from terascope.core.prices import Price, formula
from terascope.planner.hardware import Gpu
from terascope.planner.search import Plan
from terascope.planner.shapes import Architecture

_MILLION = 1e6
_HOUR = 3600.0
_SHARE = 0.75
"""Part of its power limit that a GPU that serves draws; not measured for these models."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a million answer tokens cost, prompts included."""

    money: float | None
    """US dollars; None where the price of a GPU hour is not known."""
    energy: float
    """Kilowatt hours, with the cooling."""
    units: Price
    """Service units for a million tokens of prompts and answers, as the catalogue prices the model."""
    units_per_gpu_hour: float
    """Service units that a GPU serves in an hour at this load."""


def cost(shapes: Architecture, gpu: Gpu, plan: Plan, *, price: float = 0.0, pue: float = 1.2) -> Cost:
    """Return what `plan` costs; `price`: US dollars for an hour of a GPU in place of the data sheet's, `pue`: power of
    the building over that of its computers. Raises `BadRequest` for nonsense."""
    if price < 0 or not 1 <= pue <= 10:
        raise BadRequest("a price is at least 0 and a PUE from 1 to 10", param="price" if price < 0 else "pue")
    hourly = price or gpu.price
    seconds = _MILLION / plan.output_per_gpu  # of one GPU, for a million answer tokens
    units = formula(shapes.active)
    prompts = plan.speed.total - plan.speed.output
    served = units.cost(round(prompts * _HOUR), round(plan.speed.output * _HOUR)) / _MILLION
    return Cost(
        money=hourly * seconds / _HOUR if hourly else None,
        energy=gpu.power * _SHARE * pue * seconds / _HOUR / 1000,
        units=units,
        units_per_gpu_hour=served / plan.layout.gpus,
    )
