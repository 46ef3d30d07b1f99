"""What can be asked about the inside of models."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Literal, Unpack, overload

from pydantic import model_validator

from terascope.client.ask import Ask, Noun, Sender, Sends, SendsLater, call
from terascope.client.flow import AsyncFlow, Flow
from terascope.client.html import table
from terascope.client.plan import PlanFields, Prompts, checked, plan_of
from terascope.client.trace_readers import TraceEvents, TraceFile
from terascope.client.trace_results import Trace, TracedPrompt
from terascope.protocol.trace_results import SiteViews, TraceEstimate, TraceResult
from terascope.protocol.traces import SitesRequest

_TRACES = "/v1/traces"
Operations = Sequence[Mapping[str, Any]]


class Estimate(TraceEstimate):
    """What a plan costs at most, in tokens, bytes and service units."""

    @model_validator(mode="before")
    @classmethod
    def _inside(cls, value: object) -> object:
        """It is a part of the answer."""
        return value.get("estimate", value) if isinstance(value, dict) else value

    def _repr_html_(self) -> str:
        return table(("of this plan", "at most"), self.model_dump(exclude_none=True).items())


class SiteList(SiteViews):
    """The sites of a model."""

    def _repr_html_(self) -> str:
        rows = [
            (one.site, ", ".join(f"{axis.name} {axis.size}" for axis in one.axes), one.meaning) for one in self.sites
        ]
        return table(("site", "axes of a token", "meaning"), rows)


class Traces(Noun[Sender]):
    """What happens inside models; needs a key with the scope `internals`."""

    @call
    def run(
        self,
        /,
        model: str,
        prompts: Prompts,
        operations: Operations = (),
        **fields: Any,
    ) -> Ask[TraceResult]:
        """Run a plan (docs/reference/plans.md) and return the answer as it is on the wire, arrays as base64.

        `fields` are further fields of the plan, those of the wire included. `Client.trace` gives arrays instead. Raises
        what the gateway says, and `BadRequest` for a plan that is none.
        """
        return Ask("POST", _TRACES, TraceResult, plan_of(model, prompts, operations, fields), patient=True)

    @call
    def estimate(
        self, model: str, prompts: Prompts, operations: Operations = (), **fields: Unpack[PlanFields]
    ) -> Ask[Estimate]:
        """Return what a plan costs at most; runs nothing. Raises `BadRequest` for a plan that would be refused."""
        plan = plan_of(model, prompts, operations, {**checked(fields), "dry_run": True})
        return Ask("POST", _TRACES, Estimate, plan, patient=True)

    @call
    def sites(self, model: str) -> Ask[SiteList]:
        """Return the sites of a model, with the axes of what each holds for a token."""
        return Ask("POST", f"{_TRACES}/sites", SiteList, SitesRequest(model=model))


class Tracing(Noun[Sender]):
    """`client.trace(model, prompts, operations)`: see, change and differentiate what happens inside a model."""

    @overload
    def __call__(
        self: "Tracing[Sends]",
        model: str,
        prompts: Prompts,
        operations: Operations = (),
        *,
        stream: Literal[False] = False,
        **fields: Unpack[PlanFields],
    ) -> Trace: ...
    @overload
    def __call__(
        self: "Tracing[Sends]",
        model: str,
        prompts: Prompts,
        operations: Operations = (),
        *,
        stream: Literal[True],
        **fields: Unpack[PlanFields],
    ) -> Flow[TracedPrompt]: ...
    @overload
    def __call__(
        self: "Tracing[SendsLater]",
        model: str,
        prompts: Prompts,
        operations: Operations = (),
        *,
        stream: Literal[False] = False,
        **fields: Unpack[PlanFields],
    ) -> Awaitable[Trace]: ...
    @overload
    def __call__(
        self: "Tracing[SendsLater]",
        model: str,
        prompts: Prompts,
        operations: Operations = (),
        *,
        stream: Literal[True],
        **fields: Unpack[PlanFields],
    ) -> AsyncFlow[TracedPrompt]: ...
    def __call__(
        self,
        model: str,
        prompts: Prompts,
        operations: Operations = (),
        *,
        stream: bool = False,
        **fields: Unpack[PlanFields],
    ) -> Any:
        """Run a plan and return each prompt's arrays by name.

        `prompts` are a text, texts, names with texts, or objects as in docs/reference/plans.md; `operations` are those
        of `terascope.client.operations` (`capture`, `patch`, `add`, ...) or the same as dictionaries; `fields` see
        `PlanFields`. With `stream` the prompts come one by one, in the order in which they are computed.

        Raises `BadRequest` for what is no plan, and what the gateway says. A prompt that failed beside others has its
        `error`; one that is alone raises it. Leaving or cancelling ends the work on the engine.
        """
        form = {"stream": True} if stream else {"format": "safetensors"}
        plan = plan_of(model, prompts, operations, {**checked(fields), **form})
        ask = Ask("POST", _TRACES, type(None), plan, patient=True)
        if stream:
            return self._client.flow(ask, TraceEvents())
        file = TraceFile()
        return self._client.flow(ask, file).gathered(file.trace)
