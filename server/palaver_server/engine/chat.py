"""The chat engine: what a caller can do with assistants."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from itertools import dropwhile

from palaver_server.engine import lease as leases
from palaver_server.engine.lease import TurnLease
from palaver_server.engine.limits import TurnSize
from palaver_server.engine.model import ChatModel, Models
from palaver_server.engine.options import EngineOptions
from palaver_server.engine.prompt import history, parameters_in_effect
from palaver_server.engine.queue import TurnQueue
from palaver_server.engine.reply import ReplyReader
from palaver_server.engine.rounds import Rounds
from palaver_server.engine.skills import CallNames, NoSkills, SkillHosts, Toolbox, open_calls, opening, toolbox
from palaver_server.engine.turn import Follower, Turn
from palaver_server.errors import (
    ConnectionNotConfigured,
    ConversationFull,
    RequestIdReused,
    ShuttingDown,
    TooManyTurns,
    TurnCancelled,
    TurnNotFound,
)
from palaver_server.failpoints import Failpoint, reach
from palaver_server.models import (
    Assistant,
    AssistantKey,
    IfExists,
    ModelParameters,
    Role,
    SkillResult,
    TextDelta,
    TurnCompleted,
    TurnStarted,
    UserQuery,
)
from palaver_server.stores.store import MAX_MESSAGES, MAX_TURN_MESSAGES, FinishedTurn, Listing, Page, Store, Window

CLOCK_MARGIN = timedelta(seconds=60)
"""How far the clocks of servers may be apart before a turn that one has just stored is run again by another."""

REUSED = "request_id: another request to this assistant has had it; post the same request again, or choose a new one"


@dataclass(frozen=True, slots=True)
class _Call:
    """A user query with everything that was decided about it before it may have to wait."""

    query: UserQuery
    request_id: str
    store: Store
    model: ChatModel
    ai_connection: str
    parameters: ModelParameters
    toolbox: Toolbox
    max_messages: int
    caller_deadline: float | None


class ChatEngine:
    """Creates, reads and deletes assistants, and runs their turns."""

    def __init__(
        self,
        stores: Mapping[str, Store],
        models: Models,
        options: EngineOptions | None = None,
        skills: SkillHosts | None = None,
    ) -> None:
        """Takes the stores by the names of their connections, the AI connections and the operator's decisions."""
        self._stores = stores
        self._models = models
        self._skills = skills or NoSkills()
        self._options = options or EngineOptions()
        self._queue = TurnQueue(self._options.queue_limit)
        # Turns of one assistant are kept apart by the queue, which knows the connection by its name. Another name may
        # lead to the same store, so there this is another server.
        self._servers = {name: uuid.uuid4().hex for name in stores}
        self._turns: set[Turn] = set()
        self._by_name: dict[tuple[AssistantKey, str], Turn] = {}
        self._is_draining = False

    async def create_assistant(
        self, key: AssistantKey, instructions: str, if_exists: IfExists
    ) -> tuple[Assistant, bool]:
        """Creates an assistant; returns it, and whether its conversation is new."""
        return await self._store(key).create_assistant(key.collection, key.id, instructions, if_exists)

    async def get_assistant(self, key: AssistantKey) -> Assistant:
        """Returns the state of an assistant."""
        return await self._store(key).get_assistant(key.collection, key.id)

    async def list_messages(self, key: AssistantKey, listing: Listing) -> Page:
        """Returns a page of messages."""
        return await self._store(key).list_messages(key.collection, key.id, listing)

    async def delete_assistant(self, key: AssistantKey) -> None:
        """Deletes an assistant and its messages."""
        await self._store(key).delete_assistant(key.collection, key.id)

    def post(self, query: UserQuery, time_remaining: float | None = None) -> Follower:
        """Starts a turn, or joins the running one of this name, and returns the caller's view of it.

        The caller must `leave` it in the end. `time_remaining` is what is left until the caller's deadline, in seconds.
        """
        running = self._by_name.get(_name(query.assistant, query.request_id))
        if running is not None and not running.is_cancelled:
            return _join(running, query)
        if self._is_draining:
            raise ShuttingDown("the server is shutting down")
        if len(self._turns) >= self._options.max_turns:
            raise TooManyTurns(f"the server runs {self._options.max_turns} turns already")
        ai_connection, model = self._models.resolve(query.ai_connection)
        if query.continues:
            time_remaining = None  # the turn outlives its callers
        call = _Call(
            query=query,
            request_id=query.request_id or uuid.uuid4().hex,
            store=self._store(query.assistant),
            model=model,
            ai_connection=ai_connection,
            parameters=parameters_in_effect(query.sampling, self._options),
            toolbox=toolbox(query, self._skills),
            max_messages=self._options.history_messages if query.max_messages is None else query.max_messages,
            caller_deadline=None if time_remaining is None else _now() + time_remaining,
        )
        turn = Turn(query.request_hash)
        follower = _join(turn, query)
        name = _name(query.assistant, call.request_id)
        self._turns.add(turn)
        self._by_name[name] = turn

        def forget(turn: Turn) -> None:
            self._turns.discard(turn)
            if self._by_name.get(name) is turn:
                del self._by_name[name]

        turn.start(self._run(turn, call), on_end=forget)
        return follower

    async def cancel(self, key: AssistantKey, request_id: str) -> None:
        """Ends a running turn, whoever follows it, here or on another server; raises `TurnNotFound`."""
        store = self._store(key)
        turn = self._by_name.get(_name(key, request_id))
        is_cancelled = turn is not None and turn.cancel(TurnCancelled("the turn was cancelled"))
        if turn is None or not turn.has_started:  # then it may run on another server, and only wait for that here
            is_cancelled = await leases.cancel(store, key, request_id) or is_cancelled
        if not is_cancelled:
            raise TurnNotFound("no such turn is running, or it is being stored already")

    async def drain(self, grace: float) -> None:
        """Refuses new turns and lets the running ones finish, at most so many seconds; then it ends them."""
        self._is_draining = True
        running = list(self._turns)
        for turn in running:
            if not turn.has_started:
                turn.cancel(ShuttingDown("the server is shutting down"))
        tasks = [asyncio.ensure_future(turn.ended()) for turn in running]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
            for turn in running:
                turn.cancel(ShuttingDown("the server is shutting down"))
            await asyncio.wait(tasks)

    async def _run(self, turn: Turn, call: _Call) -> None:
        # Only a name that the caller gave can be that of a turn which is stored already.
        looked_at = datetime.now(timezone.utc)
        reach(Failpoint.TURN_ACCEPTED)
        if call.query.request_id and await _replay(turn, call):
            return
        wait_until = _wait_until(call.caller_deadline)
        async with self._queue.turn(call.query.assistant, wait_until) as line:
            lease = await self._take(call, wait_until)
            line.taken(from_another=lease.was_awaited)
            reach(Failpoint.ASSISTANT_TAKEN)
            try:
                # Another server may have stored this very turn meanwhile.
                has_changed = lease.window.assistant.update_time > looked_at - CLOCK_MARGIN
                if not (has_changed and call.query.request_id and await _replay(turn, call)):
                    await self._answer(turn, call, lease)
            finally:
                await lease.release()

    async def _take(self, call: _Call, wait_until: float | None) -> TurnLease:
        return await leases.take(
            call.store,
            call.query.assistant,
            max(call.max_messages, 1),  # the newest message tells whether skill calls wait for their results
            leases.lease_of(
                call.request_id, self._servers[call.query.assistant.connection], self._options.lease_duration
            ),
            wait_until,
        )

    async def _answer(self, turn: Turn, call: _Call, lease: TurnLease) -> None:
        lease.keep(on_loss=turn.cancel)
        window = await self._with_open_calls(call, lease.window)
        before = opening(call.query, open_calls(window.messages))
        size = TurnSize(*(draft.content for draft in before))
        room = min(MAX_TURN_MESSAGES, MAX_MESSAGES - window.assistant.total_messages) - len(before)
        if room < 1:
            raise ConversationFull(f"a conversation holds {MAX_MESSAGES:,} messages at most")
        turn.publish(TurnStarted(call.request_id, call.ai_connection, call.parameters))
        reach(Failpoint.TURN_STARTED)
        deadline = _now() + self._options.turn_timeout
        retry_until = min(deadline, call.caller_deadline or deadline)
        key = call.query.assistant
        rounds = Rounds(
            turn=turn,
            reader=ReplyReader(turn, size, self._options, deadline=deadline, retry_until=retry_until),
            size=size,
            model=call.model,
            parameters=call.parameters,
            toolbox=call.toolbox,
            hosts=self._skills,
            names=CallNames(key.collection.lower(), key.id, str(window.assistant.create_time), call.request_id),
            assistant_id=key.id,
            request_id=call.request_id,
            max_rounds=self._options.max_skill_rounds,
            room=room,
            deadline=deadline,
        )
        written = await rounds.run(history(window, before, call.max_messages))
        reach(Failpoint.REPLY_ENDED)
        turn.seal()
        stored = await lease.commit(
            FinishedTurn(
                request_id=call.request_id,
                request_hash=call.query.request_hash,
                messages=(*before, *written.drafts),
                finish_reason=written.finish_reason,
                usage=written.usage,
                total_tokens=written.total_tokens,
                chat_model=written.chat_model,
            ),
        )
        reach(Failpoint.TURN_STORED)
        turn.publish(
            TurnCompleted(stored.assistant, stored.messages, written.finish_reason, written.usage, written.chat_model)
        )

    async def _with_open_calls(self, call: _Call, window: Window) -> Window:
        """Makes sure that a window which ends with skill calls has the message that asks for them."""
        newest = window.messages[-1:]
        if not newest or not (newest[0].role is Role.TOOL or newest[0].skill_calls):
            return window
        key = call.query.assistant
        wider = await call.store.read_window(key.collection, key.id, max(call.max_messages, MAX_TURN_MESSAGES))
        return replace(window, messages=wider.messages)

    def _store(self, key: AssistantKey) -> Store:
        try:
            return self._stores[key.connection]
        except KeyError:
            raise ConnectionNotConfigured(
                f'the server offers no storage connection "{key.connection}"; '
                f"it offers {', '.join(sorted(self._stores))} (PALAVER_STORAGE_CONNECTIONS)"
            ) from None


def _wait_until(caller_deadline: float | None) -> float | None:
    """How long the caller may wait in the queue, so that it still learns why before its deadline."""
    if caller_deadline is None:
        return None
    remaining = max(0.0, caller_deadline - _now())
    return caller_deadline - min(1.0, remaining / 10)


def _name(key: AssistantKey, request_id: str) -> tuple[AssistantKey, str]:
    return key.folded(), request_id


def _join(turn: Turn, query: UserQuery) -> Follower:
    if turn.request_hash != query.request_hash:
        raise RequestIdReused(REUSED)
    turn.continues = turn.continues or query.continues
    return turn.follow()


async def _replay(turn: Turn, call: _Call) -> bool:
    """Publishes the events of a turn that is stored already; False where it is not."""
    key = call.query.assistant
    found = await call.store.find_turn(key.collection, key.id, call.request_id)
    if found is None:
        return False
    if found.request_hash != call.query.request_hash:
        raise RequestIdReused(REUSED)
    turn.publish(TurnStarted(call.request_id, call.ai_connection, call.parameters, replayed=True))
    # What comes before the model's first message is the caller's own.
    for message in dropwhile(lambda message: message.role is not Role.ASSISTANT, found.messages):
        if message.role is Role.TOOL:
            turn.publish(SkillResult(message.skill_call_id, message.content, message.is_error))
            continue
        if message.content:
            turn.publish(TextDelta(message.content))
        for skill_call in message.skill_calls:
            turn.publish(skill_call)
    turn.publish(TurnCompleted(found.assistant, found.messages, found.finish_reason, found.usage, found.chat_model))
    return True


def _now() -> float:
    return asyncio.get_running_loop().time()
