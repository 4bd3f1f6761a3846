"""Compares what callers were told with what is stored: no turn may be lost, duplicated, partial or forked.

The callers write a log, the model's endpoint records the prompt that each of its replies answered, and the skill host
records its calls. `check` compares
the stored conversations with a simple model: a sequence of whole turns, each made from the ones before it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import dropwhile
from typing import Any

from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_pb2 import Role
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from tests.faults import skills
from tests.support.endpoint import Call, Endpoint, Stream, skill_calls

HISTORY_MESSAGES = 20
"""The number of messages that the servers under test send to the model."""

INSTRUCTIONS = "Tell stories."
PAGE_SIZE = 1000

EARLIER = "(Earlier messages are not shown.)"
"""What the server sends before a window that does not begin with a message of the user."""

Prompt = tuple[str, ...]


class Storyteller(Endpoint):
    """A model endpoint that tells another story each time, in several pieces, and records its prompts.

    If the question asks for a skill, it first calls the skill once or twice.
    """

    def __init__(self, pause: float = 0.004) -> None:
        """Takes the pause between two pieces of a reply, in seconds."""
        super().__init__()
        self.prompts: dict[str, Prompt] = {}
        """The prompt of each reply that was sent whole, by its text or the arguments of its calls."""
        self._pause = pause
        self.stories = 0
        """The number of replies that were begun."""
        self.default: Any = self  # the endpoint plays its answers itself

    async def play(self, call: Call) -> None:
        self.stories += 1
        messages = call.body["messages"]
        prompt: Prompt = tuple(map(_sent_text, messages))
        question = next(text for text, message in zip(prompt[::-1], messages[::-1], strict=True) if _is_users(message))
        story = f"Story {self.stories} for {question}"
        skill = skills.wanted_skill(question)
        if skill is not None and _is_users(messages[-1]):
            parts = [f"{story}, part {number}" for number in range(1 + self.stories % 2)]
            calls = [(skill, skills.arguments(part)) for part in parts]
            story = "\n".join(arguments for _, arguments in calls)
            await skill_calls(*calls).play(call)
        else:
            await Stream(self._tell(story)).play(call)
        self.prompts[story] = prompt
        self.calls.clear()

    def _tell(self, story: str) -> Callable[[Call], Awaitable[None]]:
        async def tell(call: Call) -> None:
            for word in story.split(" "):
                await call.send(call.chunk({"content": word if word == "Story" else f" {word}"}))
                await asyncio.sleep(self._pause)  # the pace of the model, not a synchronisation

        return tell


def _is_users(message: dict[str, Any]) -> bool:
    return bool(message["role"] == "user" and message["content"] != EARLIER)


def _sent_text(message: dict[str, Any]) -> str:
    calls = message.get("tool_calls", ())
    return "\n".join(call["function"]["arguments"] for call in calls) if calls else message["content"]


def text_of(message: Any) -> str:
    """Returns the text of a stored message, or the arguments of its calls."""
    return "\n".join(call.arguments_json for call in message.skill_calls) or str(message.content)


@dataclass(frozen=True)
class Posted:
    """A turn as its caller posted it."""

    assistant: str
    texts: tuple[str, ...]
    """The question, or the results of the caller's skill."""
    newest: int
    """The index of the newest message of the assistant that the caller knew then."""


@dataclass(frozen=True)
class Acknowledged:
    """A turn as it was acknowledged to its caller."""

    request_id: str
    index: int
    """The index of the first message."""
    texts: tuple[str, ...]
    """The texts of all messages, from what was posted to the reply."""

    @classmethod
    def of(cls, request_id: str, messages: Sequence[Any]) -> Acknowledged:
        """Returns the turn that these messages are, as the Python client or the contract has them."""
        return cls(request_id, messages[0].index, tuple(map(text_of, messages)))


@dataclass
class Log:
    """Everything that the callers know."""

    posted: dict[str, Posted] = field(default_factory=dict)
    """By `request_id`."""
    acknowledged: list[Acknowledged] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    """Results that no caller should ever see."""


@dataclass(frozen=True)
class Verdict:
    """The defects of the stored conversations, a line for each."""

    lost: list[str] = field(default_factory=list)
    """Acknowledged turns that are missing, or stored with other contents."""
    duplicated: list[str] = field(default_factory=list)
    """Turns and skill calls that are stored more than once."""
    partial: list[str] = field(default_factory=list)
    """Turns without some of their messages, skill calls without their own results, and turns that nobody posted."""
    forked: list[str] = field(default_factory=list)
    """Replies to a conversation other than the stored one, and turns out of order."""

    @property
    def findings(self) -> list[str]:
        """All defects."""
        return [*self.lost, *self.duplicated, *self.partial, *self.forked]


@dataclass(frozen=True)
class Witnesses:
    """What the model and the skill host know of the turns."""

    prompts: dict[str, Prompt]
    """The prompt of each reply."""
    invoked: set[tuple[str, str]] = field(default_factory=set)
    """The ids and the arguments of the calls that the host got."""


async def check(stub: AssistantServiceStub, log: Log, endpoint: Storyteller, host: skills.RecordingHost) -> Verdict:
    """Reads all conversations of the log and compares them with it."""
    assistants = sorted({posted.assistant for posted in log.posted.values()})
    conversations = {assistant: await _messages(stub, assistant) for assistant in assistants}
    return compare(conversations, log, Witnesses(endpoint.prompts, host.invoked))


def compare(conversations: dict[str, list[assistant_pb2.Message]], log: Log, witnesses: Witnesses) -> Verdict:
    """Compares stored conversations with what the callers, the model and the skill host know of them."""
    verdict = Verdict()
    stored: dict[str, Acknowledged] = {}
    for assistant, messages in conversations.items():
        if [message.index for message in messages] != list(range(1, len(messages) + 1)):
            verdict.partial.append(f"{assistant}: the indexes are not 1 to {len(messages)}")
        _check_calls(assistant, messages, witnesses, verdict)
        for request_id, found in _by_request(messages).items():
            turn = Acknowledged.of(request_id, found)
            if (defects := _defects_of_form(found, verdict)) is not None:
                defects.append(f"{assistant}: {turn} is not one whole turn")
                continue
            if request_id in stored:
                verdict.duplicated.append(f"{assistant}: {turn}")
            stored[request_id] = turn
            _check_turn(assistant, turn, found, messages, log, witnesses, verdict)
    for told in log.acknowledged:
        if stored.get(told.request_id) != told:
            verdict.lost.append(f"{told}, but {stored.get(told.request_id)} is stored")
    return verdict


async def _messages(stub: AssistantServiceStub, assistant: str) -> list[assistant_pb2.Message]:
    request = pb.ListMessagesRequest(id=assistant, page_size=PAGE_SIZE)
    messages: list[assistant_pb2.Message] = []
    while True:
        page = await stub.ListMessages(request)
        messages += page.messages
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    state = await stub.GetAssistant(pb.GetAssistantRequest(id=assistant))
    assert state.assistant.total_messages == len(messages), assistant
    return messages


def _by_request(messages: list[assistant_pb2.Message]) -> dict[str, list[assistant_pb2.Message]]:
    by_request: dict[str, list[assistant_pb2.Message]] = defaultdict(list)
    for message in messages[1:]:
        by_request[message.request_id].append(message)
    return by_request


def _defects_of_form(turn: list[assistant_pb2.Message], verdict: Verdict) -> list[str] | None:
    """Returns None if the messages are one whole turn, or else the defects among which it belongs."""
    questions = [message for message in turn if message.role == Role.ROLE_USER]
    answers = [message for message in turn if message.role == Role.ROLE_ASSISTANT and not message.skill_calls]
    if len(questions) > 1 or len(answers) > 1:
        return verdict.duplicated
    indexes = [message.index for message in turn]
    if indexes != list(range(indexes[0], indexes[0] + len(indexes))):
        return verdict.partial
    first = 1 if questions else next((n for n, message in enumerate(turn) if message.role != Role.ROLE_TOOL), len(turn))
    rest = turn[first:]
    if not rest or first == 0:
        return verdict.partial
    while rest:
        reply, rest = rest[0], rest[1:]
        ids = [call.id for call in reply.skill_calls]
        if reply.role != Role.ROLE_ASSISTANT or (rest and not ids):
            return verdict.partial
        if rest and [message.skill_call_id for message in rest[: len(ids)]] != ids:
            return verdict.partial
        if not rest and any(call.name != skills.ASK for call in reply.skill_calls):
            return verdict.partial  # only the calls of the caller's skill may wait for their results
        rest = rest[len(ids) :]
    return None


def _check_calls(assistant: str, messages: list[assistant_pb2.Message], witnesses: Witnesses, verdict: Verdict) -> None:
    """Checks that every call is stored once, and every result is that of its call."""
    calls = [call for message in messages for call in message.skill_calls]
    by_id = {call.id: call for call in calls}
    if len(by_id) != len(calls):
        verdict.duplicated.append(f"{assistant}: the ids of the skill calls are not unique")
    for result in (message for message in messages if message.role == Role.ROLE_TOOL):
        call = by_id.pop(result.skill_call_id, None)
        if call is None:
            verdict.duplicated.append(f"{assistant}: no call, or a second one, for the result {result.content}")
        elif result.content != skills.result_of(call.name, call.arguments_json):
            verdict.partial.append(f"{assistant}: {call} has the result {result.content}")
        elif call.name == skills.LOOK_UP and (call.id, call.arguments_json) not in witnesses.invoked:
            verdict.partial.append(f"{assistant}: the host never got {call}")


def _check_turn(
    assistant: str,
    turn: Acknowledged,
    found: list[assistant_pb2.Message],
    messages: list[assistant_pb2.Message],
    log: Log,
    witnesses: Witnesses,
    verdict: Verdict,
) -> None:
    posted = log.posted.get(turn.request_id)
    if posted is None or (posted.assistant, posted.texts) != (assistant, turn.texts[: len(posted.texts)]):
        verdict.partial.append(f"{assistant}: nobody posted {turn}")
    elif posted.newest >= turn.index:
        verdict.forked.append(f"{assistant}: {turn} is stored before {posted.newest}, which its caller knew")
    before = _window(messages[1 : turn.index - 1])
    for number, message in enumerate(found):
        prompt = (INSTRUCTIONS, *before, *turn.texts[:number])
        if message.role == Role.ROLE_ASSISTANT and witnesses.prompts.get(turn.texts[number]) != prompt:
            verdict.forked.append(f"{assistant}: {turn} answers another conversation")


def _window(before: list[assistant_pb2.Message]) -> Prompt:
    """Returns the part of a conversation that the server sends with the next turn."""
    window = list(dropwhile(lambda message: message.role == Role.ROLE_TOOL, before[-HISTORY_MESSAGES:]))
    earlier = (EARLIER,) if window and window[0].role != Role.ROLE_USER else ()
    return (*earlier, *map(text_of, window))
