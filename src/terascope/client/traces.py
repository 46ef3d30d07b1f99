"""What can be asked about the inside of models."""

from collections.abc import Mapping, Sequence
from typing import Any

from terascope.client.ask import Ask, Noun, Sender, call
from terascope.protocol.trace_results import SiteViews, TraceResult
from terascope.protocol.traces import SitesRequest, TraceRequest


class Traces(Noun[Sender]):
    """What happens inside models; needs a key with the scope `internals`."""

    @call
    def run(
        self,
        /,
        model: str,
        prompts: Sequence[str | Mapping[str, Any]],
        operations: Sequence[Mapping[str, Any]] = (),
        **fields: Any,
    ) -> Ask[TraceResult]:
        """Run a plan (docs/reference/plans.md) and return each prompt's result, arrays as base64.

        `fields` are further fields of the plan, such as `gradient`, `max_tokens` or `dry_run`. Raises what the gateway
        says, and `pydantic.ValidationError` for a plan that is none.
        """
        plan = {"model": model, "prompts": [*prompts], "operations": [*operations], **fields}
        return Ask("POST", "/v1/traces", TraceResult, TraceRequest.model_validate(plan), patient=True)

    @call
    def sites(self, model: str) -> Ask[SiteViews]:
        """Return the sites of a model, with the axes of what each holds for a token."""
        return Ask("POST", "/v1/traces/sites", SiteViews, SitesRequest(model=model))
