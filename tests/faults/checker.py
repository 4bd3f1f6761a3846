"""Compares what callers were told with what is stored: no turn may be lost, duplicated, partial or forked.

The callers write a log, and the model's endpoint records the prompt that each of its replies answered. `check` compares
the stored conversations with a simple model: a sequence of whole turns, each made from the ones before it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from tests.support.endpoint import Call, Endpoint, Stream

HISTORY_MESSAGES = 20
"""The number of messages that the servers under test send to the model."""

INSTRUCTIONS = "Tell stories."
PAGE_SIZE = 1000

Prompt = tuple[str, ...]


class Storyteller(Endpoint):
    """A model endpoint that tells another story each time, in several pieces, and records its prompts."""

    def __init__(self, pause: float = 0.004) -> None:
        """Takes the pause between two pieces of a reply, in seconds."""
        super().__init__()
        self.prompts: dict[str, Prompt] = {}
        """The prompt of each story that was sent whole."""
        self._pause = pause
        self.stories = 0
        """The number of stories that were begun."""
        self.default = Stream(self._tell)

    async def _tell(self, call: Call) -> None:
        self.stories += 1
        prompt: Prompt = tuple(message["content"] for message in call.body["messages"])
        story = f"Story {self.stories} for {prompt[-1]}"
        for word in story.split(" "):
            await call.send(call.chunk({"content": word if word == "Story" else f" {word}"}))
            await asyncio.sleep(self._pause)  # the pace of the model, not a synchronisation
        self.prompts[story] = prompt
        self.calls.clear()


@dataclass(frozen=True)
class Posted:
    """A turn as its caller posted it."""

    assistant: str
    question: str
    newest: int
    """The index of the newest message of the assistant that the caller knew then."""


@dataclass(frozen=True)
class Acknowledged:
    """A turn as it was acknowledged to its caller."""

    request_id: str
    index: int
    """The index of the user message."""
    question: str
    answer: str


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
    """Turns that are stored more than once."""
    partial: list[str] = field(default_factory=list)
    """Messages without the other one of their turn, and turns that nobody posted."""
    forked: list[str] = field(default_factory=list)
    """Replies to a conversation other than the stored one, and turns out of order."""

    @property
    def findings(self) -> list[str]:
        """All defects."""
        return [*self.lost, *self.duplicated, *self.partial, *self.forked]


async def check(stub: AssistantServiceStub, log: Log, prompts: dict[str, Prompt]) -> Verdict:
    """Reads all conversations of the log and compares them with it."""
    assistants = sorted({posted.assistant for posted in log.posted.values()})
    return compare({assistant: await _messages(stub, assistant) for assistant in assistants}, log, prompts)


def compare(conversations: dict[str, list[assistant_pb2.Message]], log: Log, prompts: dict[str, Prompt]) -> Verdict:
    """Compares stored conversations with what the callers and the model know of them."""
    verdict = Verdict()
    stored: dict[str, Acknowledged] = {}
    for assistant, messages in conversations.items():
        if [message.index for message in messages] != list(range(1, len(messages) + 1)):
            verdict.partial.append(f"{assistant}: the indexes are not 1 to {len(messages)}")
        for turn in _turns(assistant, messages, verdict):
            if turn.request_id in stored:
                verdict.duplicated.append(f"{assistant}: {turn}")
            stored[turn.request_id] = turn
            _check_turn(assistant, turn, messages, log, prompts, verdict)
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


def _turns(assistant: str, messages: list[assistant_pb2.Message], verdict: Verdict) -> list[Acknowledged]:
    by_request: dict[str, list[assistant_pb2.Message]] = defaultdict(list)
    for message in messages[1:]:
        by_request[message.request_id].append(message)
    turns = []
    for request_id, found in by_request.items():
        roles = [message.role for message in found]
        indexes = [message.index for message in found]
        if roles != [assistant_pb2.ROLE_USER, assistant_pb2.ROLE_ASSISTANT] or indexes[1] != indexes[0] + 1:
            kind = verdict.duplicated if len(found) > 2 else verdict.partial
            kind.append(f"{assistant}: {request_id} has the messages {indexes}")
            continue
        turns.append(Acknowledged(request_id, indexes[0], found[0].content, found[1].content))
    return turns


def _check_turn(
    assistant: str,
    turn: Acknowledged,
    messages: list[assistant_pb2.Message],
    log: Log,
    prompts: dict[str, Prompt],
    verdict: Verdict,
) -> None:
    posted = log.posted.get(turn.request_id)
    if posted is None or (posted.assistant, posted.question) != (assistant, turn.question):
        verdict.partial.append(f"{assistant}: nobody posted {turn}")
    elif posted.newest >= turn.index:
        verdict.forked.append(f"{assistant}: {turn} is stored before {posted.newest}, which its caller knew")
    before = [message.content for message in messages[1 : turn.index - 1]]
    expected = (INSTRUCTIONS, *before[-HISTORY_MESSAGES:], turn.question)
    if prompts.get(turn.answer) != expected:
        verdict.forked.append(f"{assistant}: {turn} answers another conversation")
