"""The one page that every request to a model takes: six hops, in order.

The gateway and the batch runner both call `Inference.answer`; nothing else reaches an engine.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace

import orjson

from terascope.access.access import Access
from terascope.access.artefacts import Artefacts
from terascope.access.estimate import Estimate
from terascope.access.principal import Grant, Principal
from terascope.catalog.catalog import Catalog
from terascope.core.clock import Clock
from terascope.core.config import InternalsConfig, ServerConfig
from terascope.core.errors import EngineLost, EngineUnreachable, ServerStopping, ServiceError, UnsupportedFeature
from terascope.core.models import Mode, ModelVersion
from terascope.core.projects import Qos
from terascope.core.runs import RunRecord
from terascope.files.files import Files
from terascope.inference.passing import Ending, Passing
from terascope.inference.patience import Patience
from terascope.inference.place import Place
from terascope.inference.quotes import cost_in
from terascope.inference.reply import Reply, Unheard
from terascope.inference.run import Run
from terascope.inference.searching import Asker, Searches
from terascope.inference.turns import Turns
from terascope.internals.limits import Cost
from terascope.protocol.request import ModelRequest
from terascope.provenance.recorder import Recorder

_RESTART_S = 10.0
MOST_ATTEMPTS = 3  # a request that takes its replica down with it must not take all of them


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrives; all but its id and its key is read only once the caller is known.

    `deadline_s` is in seconds; `shares_with_all` says whether the caller chose to share computed prefixes with
    everybody who chose so, too. `project` is the one that is to pay, empty for the key's own.
    """

    id: str
    authorization: str
    endpoint: str
    mode: Mode
    body: Callable[[], Awaitable[bytes]]
    deadline_s: Callable[[], float | None] = lambda: None
    shares_with_all: Callable[[], bool] = lambda: False
    project: str = ""
    qos: Callable[[], Qos] = lambda: Qos.INTERACTIVE
    principal: Principal | None = None
    """Who asks, where Terascope itself does so for somebody whom it has identified; never from outside."""


def stopping() -> ServerStopping:
    """The error of an answer that the gateway does not wait for any more."""
    return ServerStopping("the server is stopping; ask again", retry_after=_RESTART_S)


class Inference:
    """Takes requests from identification to their record."""

    def __init__(
        self,
        access: Access,
        catalog: Catalog,
        turns: Turns,
        recorder: Recorder,
        config: ServerConfig,
        clock: Clock,
        count: Callable[[RunRecord], None],
        artefacts: Artefacts,
        internals: InternalsConfig | None = None,
        files: Files | None = None,
    ) -> None:
        """`files`: where results by reference go; without them there are none."""
        self._access = access
        self._catalog = catalog
        self._turns = turns
        self._recorder = recorder
        self._config = config
        self._clock = clock
        self._count = count
        self._plan_limits = asdict(internals or InternalsConfig())
        self._files = files
        self._artefacts = artefacts
        self.searches: Searches | None = None
        """What finds passages for chats; the room above sets it."""

    async def answer(self, asked: Asked, reply: Reply) -> None:
        """Answer `asked` on `reply`.

        Holds on return and on raise: the run record is durable, the engine works no more on it. On cancellation
        the record is on its way and cannot be stopped any more. The last part of an answer goes out only after
        its record is durable. Raises `ServiceError`; when `reply.begun`, the error is to be sent as an event. A
        caller without a valid key leaves no record.
        """
        principal = asked.principal or await self._access.identify(asked.authorization)  # 1. who
        run = Run(asked.id, asked.endpoint, principal, self._clock)
        try:
            ending = await self._run(asked, principal, run, reply)
            run.completed()
        except ServiceError as error:
            run.failed(error)
            raise
        except asyncio.CancelledError:
            run.cancelled() if reply.gone else run.failed(stopping())
            raise
        finally:
            await self._record(run)  # 6. settle and record
        if ending.head is not None:
            await reply.begin(200, ending.head)
        await reply.end(ending.data)

    async def _record(self, run: Run) -> None:
        record = run.record()
        self._access.limits.leave(run.admitted, record.prompt_tokens + record.completion_tokens)
        if run.place is not None:
            run.place.settle(record.cost, record.completion_tokens)
        settlement = self._access.accounts.settlement(run.grant, record, prompt_tokens=run.billed[0])
        asyncio.get_running_loop().call_soon(self._count, record)  # counting can wait until the answer is out
        try:
            await self._recorder.save(record, settlement)
        finally:
            self._access.days.settle(run.reserved, run.used)

    async def _run(self, asked: Asked, principal: Principal, run: Run, reply: Reply) -> Ending:
        deadline_s = asked.deadline_s()
        scope = "" if asked.shares_with_all() else principal.scope
        request = ModelRequest.read(asked.endpoint, asked.mode, await asked.body())
        run.asked(request)
        version = self._catalog.resolve(request.model)  # 2. which model, exactly
        run.resolved(version)
        if version.parent:
            request = replace(request, adapted=True)
        grant = await self._access.admit(  # 3. may they, and can they pay
            principal, version, asked.mode, project=asked.project, qos=asked.qos(), also=request.modes
        )
        run.granted(grant)
        request = await self._artefacts.applied(request, grant, version)
        if request.searches_files:
            request, deadline_s = await self._searched(request, Asker(grant, version, deadline_s, lambda: reply.gone))
        run.asked(request)
        estimate = Estimate.of(request, version)
        run.admitted = self._access.limits.enter(grant, estimate.probable)
        cost = None
        if request.endpoint == "traces" and (
            cost := await self._quote(request, version, run, grant, deadline_s, reply)
        ):
            run.reserved = await self._access.days.reserve(grant, asdict(cost))
            estimate = Estimate.exact(cost)
        meter = await self._access.accounts.hold(run.id, grant, estimate)
        place = run.place = self._turns.place(grant, self._catalog.base_of(version), request, cost, estimate)
        passing = Passing(
            run, request, version, reply, place,
            scope=scope, qos=grant.qos, meter=meter, limits=self._plan_limits, files=self._files,
        )  # fmt: skip
        async with Patience(self._config, deadline_s=deadline_s, beat=passing.beat) as patience:
            return await self._attempts(place, passing, patience)

    async def _searched(self, request: ModelRequest, asker: Asker) -> tuple[ModelRequest, float | None]:
        """The request with passages of files before its question, and what is left of its deadline."""
        if self.searches is None:
            raise UnsupportedFeature("there are no vector stores here to search", param="tools")
        began = self._clock.monotonic()
        found = await self.searches.searched(request, asker)
        if asker.deadline_s is None:
            return found, None
        return found, max(0.001, asker.deadline_s - (self._clock.monotonic() - began))

    async def _quote(
        self,
        request: ModelRequest,
        version: ModelVersion,
        run: Run,
        grant: Grant,
        deadline_s: float | None,
        reply: Reply,
    ) -> Cost | None:
        """What a trace takes, as an engine says without running it. None where nobody needs to know, or none says it.

        Raises what the trace itself would be refused with.
        """
        if request.dry_run or (grant.unlimited and not self._access.days.limited(grant)):
            return None
        dry = request.as_dry_run()
        one = Run(run.id, run.endpoint, run.principal, self._clock)  # of its own: it leaves no record
        place = self._turns.place(grant, version, dry)
        passing = Passing(one, dry, version, Unheard(), place, scope="", qos=grant.qos, limits=self._plan_limits)
        beat = Passing(run, request, version, reply, place, scope="").beat  # while a replica is on its way
        async with Patience(self._config, deadline_s=deadline_s, beat=beat) as patience:
            ending = await self._attempts(place, passing, patience)
        return cost_in(orjson.loads(ending.data))

    async def _attempts(self, place: Place, passing: Passing, patience: Patience) -> Ending:
        """Hops four and five, again on another replica while the client has seen nothing."""
        lost_by: set[str] = set()
        while True:
            async with place.turn() as replica:  # 4. whose turn, and where
                try:
                    ending = await passing.generate(replica, patience)  # 5. the engine's answer, as it comes
                    self._turns.answered(replica)
                    return ending
                except (EngineUnreachable, EngineLost):
                    self._turns.lost(replica, again=replica.id in lost_by)
                    lost_by.add(replica.id)
                    if passing.answer_began or passing.run.attempts >= MOST_ATTEMPTS:
                        raise
