"""The chat engine: everything that callers can do with assistants.

A query joins the running turn, or else replays the stored one, or else plans and runs a new one. The store is searched
before the turn is planned, so even a server that could not run the turn can replay it, or wait while another server
runs it.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from itertools import dropwhile

from palaver_server.domain.administration import RunningTurn
from palaver_server.domain.conversation import (
    Assistant,
    AssistantKey,
    AssistantPage,
    CollectionKey,
    IfExists,
    Listing,
    Page,
    Role,
    SkillResult,
)
from palaver_server.domain.errors import (
    ConnectionNotConfigured,
    PalaverError,
    RequestIdReused,
    ShuttingDown,
    TooManyTurns,
    TurnCancelled,
    TurnNotFound,
)
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.limits import MAX_TURN_BYTES, MAX_TURN_MESSAGES
from palaver_server.domain.log_fields import fields
from palaver_server.domain.ports import ChatModel, ModelConnections, SkillSource, Store
from palaver_server.domain.stages import Observer, Observers, Stage
from palaver_server.domain.turns import (
    Caller,
    FinishedTurn,
    FoundTurn,
    TextDelta,
    TurnCompleted,
    TurnKey,
    TurnStarted,
    UserQuery,
    Window,
    WindowSize,
)
from palaver_server.engine.call_ids import CallIdGenerator
from palaver_server.engine.options import EngineOptions
from palaver_server.engine.quotas import Quotas
from palaver_server.engine.reply import ReplyReader
from palaver_server.engine.tool_loop import ToolLoop
from palaver_server.engine.toolbox import Toolbox
from palaver_server.engine.transcript import Transcript
from palaver_server.engine.turn import Subscriber, Turn
from palaver_server.engine.turn_lock import TurnLock, TurnLocks, wait_for_other_servers

logger = logging.getLogger(__name__)

CLOCK_SKEW = timedelta(seconds=60)
"""The clock difference that is tolerated when a server searches for a turn that another one has just stored."""

REUSED = "request_id: already used by a different request to this assistant; post the same request, or choose a new id"


@dataclass(frozen=True, slots=True)
class _Plan:
    """The decisions that are made before a turn waits for its assistant."""

    model: ChatModel
    parameters: GenerationParameters
    toolbox: Toolbox
    window: WindowSize


class ChatEngine:
    """Creates, reads and deletes assistants, and runs their turns.

    It implements `Engine` for everyone. `AccessControl` wraps it, and refuses what a caller has no right to.
    """

    def __init__(
        self,
        stores: Mapping[str, Store],
        models: ModelConnections,
        skills: SkillSource,
        options: EngineOptions | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Takes the stores by the names of their connections."""
        self._stores = stores
        self._models = models
        self._skills = skills
        self._options = options or EngineOptions()
        self._observer = observer or Observers()
        self._quotas = Quotas()
        self._locks = TurnLocks(self._options.queue_limit, self._options.lease_duration)
        self._turns: dict[Turn, str] = {}
        """The turns that run or wait, with the addresses of the callers that started them."""
        self._addresses: Counter[str] = Counter()
        """The number of turns by address."""
        self._by_key: dict[TurnKey, Turn] = {}
        self._is_draining = False

    async def create_assistant(
        self, caller: Caller, key: AssistantKey, instructions: str, if_exists: IfExists
    ) -> tuple[Assistant, bool]:
        """Creates an assistant; returns it, and True if its conversation is new."""
        return await self._store(caller, key).create_assistant(key, instructions, if_exists)

    async def get_assistant(self, caller: Caller, key: AssistantKey) -> Assistant:
        """Returns the state of an assistant."""
        return await self._store(caller, key).get_assistant(key)

    async def list_assistants(self, caller: Caller, key: CollectionKey, limit: int, position: str) -> AssistantPage:
        """Returns a page of the assistants of a collection."""
        return await self._store(caller, key).list_assistants(key, limit, position)

    async def list_messages(self, caller: Caller, key: AssistantKey, listing: Listing) -> Page:
        """Returns a page of messages."""
        return await self._store(caller, key).list_messages(key, listing)

    async def delete_assistant(self, caller: Caller, key: AssistantKey) -> None:
        """Deletes an assistant and its messages."""
        await self._store(caller, key).delete_assistant(key)

    def post(self, caller: Caller, query: UserQuery, time_remaining: float | None = None) -> Subscriber:
        """Starts a turn, or joins the running turn with the same key, and returns the caller's view of it.

        The caller must call `leave` on it in the end. `time_remaining` is the time until its deadline, in seconds.
        """
        running = self._by_key.get(TurnKey(query.assistant, query.request_id).normalized())
        if running is not None and not running.is_cancelled:
            return _join(running, query)
        if self._is_draining:
            raise ShuttingDown("the server is shutting down")
        if len(self._turns) >= self._options.max_turns:
            raise TooManyTurns(f"the server is already running {self._options.max_turns} turns")
        if query.address and self._addresses[query.address] >= self._options.max_address_turns:
            raise TooManyTurns(
                f"the server is already running {self._options.max_address_turns} turns of callers at this address "
                "(PALAVER_MAX_ADDRESS_TURNS)"
            )
        store = self._store(caller, query.assistant)
        key = TurnKey(query.assistant, query.request_id or uuid.uuid4().hex)
        turn = Turn(key, query.request_hash, caller, self._observer, self._options.progress_interval)
        subscriber = _join(turn, query)
        self._turns[turn] = query.address
        self._addresses[query.address] += 1
        self._by_key[key.normalized()] = turn
        # A turn that continues outlives its callers, and their deadlines.
        deadline = None if time_remaining is None or query.continues else _now() + time_remaining
        self._observer.reached(Stage.ACCEPTED, key, caller)
        turn.start(self._serve(turn, caller, query, store, deadline), on_end=self._forget)
        return subscriber

    async def cancel(self, caller: Caller, key: TurnKey) -> None:
        """Ends a running turn, here or on another server; raises `TurnNotFound`."""
        store = self._store(caller, key.assistant)
        turn = self._by_key.get(key.normalized())
        is_cancelled = turn is not None and turn.cancel(TurnCancelled("the turn was cancelled"))
        if turn is None or not turn.has_started:  # it may run on another server, and the local one only wait for it
            is_cancelled = await store.cancel_lease(key) or is_cancelled
        if not is_cancelled:
            raise TurnNotFound("the turn is not running, or it is already being stored")

    def running_turns(self) -> Iterator[RunningTurn]:
        """Yields the turns that run or wait, in the order in which they were accepted."""
        return (turn.snapshot() for turn in self._turns)

    async def drain(self, grace: float) -> None:
        """Refuses new turns, gives the running ones `grace` seconds to finish, and cancels the rest."""
        self._is_draining = True
        running = list(self._turns)
        logger.info("stopping", extra=fields(running_turns=len(running), grace_seconds=grace if running else None))
        for turn in running:
            if not turn.has_started:
                turn.cancel(ShuttingDown("the server is shutting down"))
        tasks = [asyncio.ensure_future(turn.wait()) for turn in running]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
            for turn in running:
                if turn.cancel(ShuttingDown("the server is shutting down")):
                    logger.warning(
                        "a turn is cut off, because the grace period is over",
                        extra=fields(assistant=turn.key.assistant.id, request_id=turn.key.request_id),
                    )
            await asyncio.wait(tasks)

    def _forget(self, turn: Turn) -> None:
        address = self._turns.pop(turn)
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]
        if self._by_key.get(turn.key.normalized()) is turn:
            del self._by_key[turn.key.normalized()]

    async def _serve(self, turn: Turn, caller: Caller, query: UserQuery, store: Store, deadline: float | None) -> None:
        """Replays the turn if it is stored; otherwise runs it, within the limits of its caller."""
        searched_at = datetime.now(timezone.utc)
        # A generated `request_id` is new, so no stored turn has it.
        if query.request_id and await self._replay(turn, query, store):
            return
        with self._quotas.turn(caller):
            await self._plan_and_run(turn, query, store, searched_at, deadline)

    async def _plan_and_run(
        self, turn: Turn, query: UserQuery, store: Store, searched_at: datetime, deadline: float | None
    ) -> None:
        """Plans the turn, waits for the assistant, and runs it, unless another server has stored it by then."""
        wait_until = _wait_until(deadline)
        try:
            plan = self._plan(query)
        except PalaverError:
            # Another server, which can plan the turn, may be running it.
            if query.request_id:
                await wait_for_other_servers(store, turn.key, wait_until)
                if await self._replay(turn, query, store):
                    return
            raise
        turn.parameters = plan.parameters
        async with self._locks.acquire(store, turn.key, plan.window, wait_until) as lock:
            self._observer.reached(Stage.LOCKED, turn.key, lock.window)
            # Another server may have stored this turn in the meantime.
            has_changed = lock.window.assistant.update_time > searched_at - CLOCK_SKEW
            if not (has_changed and query.request_id and await self._replay(turn, query, store)):
                await self._run(turn, query, plan, store, lock, deadline)

    async def _replay(self, turn: Turn, query: UserQuery, store: Store) -> bool:
        """Publishes the events of the turn if it is stored, and returns whether it is."""
        found = await store.find_turn(turn.key)
        if found is None:
            return False
        if found.request_hash != query.request_hash:
            raise RequestIdReused(REUSED)
        parameters = found.parameters or self._presumed_parameters(query)
        turn.publish(TurnStarted(turn.key.request_id, parameters, replayed=True))
        _publish_messages(turn, found)
        turn.publish(TurnCompleted(found.assistant, found.messages, found.finish_reason, found.usage, found.chat_model))
        return True

    def _presumed_parameters(self, query: UserQuery) -> GenerationParameters:
        """Returns the likely parameters of a turn that an older server stored without them.

        The options are known, because the request is the same. That server's defaults are presumed to be this one's.
        """
        try:
            ai_connection, _ = self._models.resolve(query.options.ai_connection)
        except ConnectionNotConfigured:
            ai_connection = ""
        return self._options.generation.resolve(query.options, query.options.ai_connection or ai_connection)

    def _plan(self, query: UserQuery) -> _Plan:
        ai_connection, model = self._models.resolve(query.options.ai_connection)
        return _Plan(
            model=model,
            parameters=self._options.generation.resolve(query.options, ai_connection),
            toolbox=Toolbox.for_query(query, self._skills),
            window=self._options.window(query.max_messages),
        )

    async def _run(
        self, turn: Turn, query: UserQuery, plan: _Plan, store: Store, lock: TurnLock, caller_deadline: float | None
    ) -> None:
        lock.start_renewing(on_loss=turn.cancel)
        window = await _with_open_calls(lock.window, query.assistant, plan, store)
        shown = min(len(lock.window.messages), plan.window.max_messages)
        transcript = Transcript(query, window, shown)
        turn.begin(TurnStarted(turn.key.request_id, plan.parameters))
        self._observer.reached(Stage.STARTED, turn.key, plan.parameters)
        deadline = _now() + self._options.turn_timeout
        loop = ToolLoop(
            turn=turn,
            observer=self._observer,
            transcript=transcript,
            reader=ReplyReader(
                turn,
                transcript.size,
                self._options,
                self._observer,
                deadline=deadline,
                retry_until=min(deadline, caller_deadline or deadline),
            ),
            model=plan.model,
            parameters=plan.parameters,
            toolbox=plan.toolbox,
            skills=self._skills,
            call_ids=_call_ids(turn.key, window.assistant),
            max_rounds=self._options.max_skill_rounds,
            deadline=deadline,
        )
        outcome = await loop.run()
        finished = FinishedTurn(
            request_id=turn.key.request_id,
            request_hash=query.request_hash,
            messages=transcript.new_messages,
            finish_reason=outcome.finish_reason,
            usage=outcome.usage,
            total_tokens=outcome.total_tokens,
            chat_model=outcome.chat_model,
            parameters=plan.parameters,
        )
        self._observer.reached(Stage.REPLIED, turn.key, finished)
        turn.begin_commit()
        stored = await lock.commit(finished)
        self._observer.reached(Stage.STORED, turn.key, stored)
        turn.publish(
            TurnCompleted(stored.assistant, stored.messages, outcome.finish_reason, outcome.usage, outcome.chat_model)
        )

    def _store(self, caller: Caller, key: AssistantKey | CollectionKey) -> Store:
        try:
            return self._stores[key.connection]
        except KeyError:
            offered = sorted(name for name in self._stores if name in caller.rights.storage_connections)
            raise ConnectionNotConfigured(
                f'the server offers no storage connection "{key.connection}"; '
                f"it offers {', '.join(offered) or 'none of those that this caller may use'}"
                " (PALAVER_STORAGE_CONNECTIONS)"
            ) from None


def _join(turn: Turn, query: UserQuery) -> Subscriber:
    """Subscribes the caller of a query to its turn; raises `RequestIdReused` if the turn has another request."""
    if turn.request_hash != query.request_hash:
        raise RequestIdReused(REUSED)
    turn.continues = turn.continues or query.continues
    return turn.subscribe()


async def _with_open_calls(window: Window, key: AssistantKey, plan: _Plan, store: Store) -> Window:
    """Returns the window, or a wider one if the conversation ends with skill results and their calls are not in it."""
    if Transcript.is_complete(window):
        return window
    # No call is further from its results than the turn is long that they belong to.
    max_messages = max(plan.window.max_messages, MAX_TURN_MESSAGES)
    wider = await store.read_window(key, max_messages, max_bytes=max(plan.window.max_bytes, MAX_TURN_BYTES))
    return replace(window, messages=wider.messages)


def _publish_messages(turn: Turn, found: FoundTurn) -> None:
    """Publishes the text, the skill calls and the results of a stored turn."""
    # The messages before the model's first one are the caller's own.
    for message in dropwhile(lambda message: message.role is not Role.ASSISTANT, found.messages):
        if message.role is Role.TOOL:
            turn.publish(SkillResult(message.skill_call_id, message.content.text, message.is_error))
            continue
        if message.content:
            turn.publish(TextDelta(message.content.text))
        for skill_call in message.skill_calls:
            turn.publish(skill_call)


def _call_ids(turn: TurnKey, assistant: Assistant) -> CallIdGenerator:
    key = turn.assistant
    return CallIdGenerator(key.collection.lower(), key.id, str(assistant.create_time), turn.request_id)


def _wait_until(caller_deadline: float | None) -> float | None:
    """Returns the time until which a turn may wait for its assistant.

    It is a little before the caller's deadline, so that the caller still receives the error.
    """
    if caller_deadline is None:
        return None
    remaining = max(0.0, caller_deadline - _now())
    return caller_deadline - min(1.0, remaining / 10)


def _now() -> float:
    return asyncio.get_running_loop().time()
