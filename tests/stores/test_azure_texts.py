"""Any id and any text, through the whole server to Azure Table Storage: read back unchanged, or refused by field."""

from __future__ import annotations

from azure.data.tables.aio import TableServiceClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.domain.conversation import Content
from palaver_server.domain.limits import MAX_TURN_BYTES
from tests.support.azurite import Account
from tests.support.endpoint import Endpoint, Stream
from tests.support.functions_extension import raw_rows, read_conversation
from tests.support.palaver_server import Served
from tests.support.statuses import failure_of

CHARACTERS = st.characters(codec="utf-8") | st.sampled_from(
    "'\"%_&+=<>/\\#? \t\n\0\x7f\x85😀👩‍🦰語𠀀שלום\u202e\ufeff\uffff"
)
TEXTS = st.text(CHARACTERS) | st.builds(
    lambda text, times: text * times, st.text(CHARACTERS, max_size=2), st.just(99_999)
)
FORBIDDEN = set("/\\#?")


def is_allowed(name: str) -> bool:
    return 1 <= len(name) <= 255 and not FORBIDDEN & set(name) and not any(is_control(character) for character in name)


def is_control(character: str) -> bool:
    return character < " " or "\x7f" <= character <= "\x9f"


NAMES = st.text(CHARACTERS.filter(is_allowed), min_size=1, max_size=255) | st.text(CHARACTERS, max_size=260)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(name=NAMES, instructions=TEXTS, question=TEXTS, answer=TEXTS)
@example(name="x' or PartitionKey eq 'victim", instructions="'", question="' or true", answer="%27")
@example(name="😀" * 255, instructions="a" * 400_000, question="😀" * 200_000, answer="\n" * 10_000)
async def test_texts_are_read_back_unchanged_or_refused_by_field(
    served: Served, endpoint: Endpoint, account: Account, name: str, instructions: str, question: str, answer: str
):
    create = pb.CreateAssistantRequest(id=name, instructions=instructions, if_exists=pb.IF_EXISTS_RESET)
    if not is_allowed(name):
        assert (await failure_of(served.stub.CreateAssistant(create))).violations.keys() == {"id"}
        return
    await served.stub.CreateAssistant(create)
    expected = [instructions] if instructions.strip() else []
    answer = answer or "…"
    post = served.stub.PostUserQueryUnary(pb.PostUserQueryRequest(id=name, user_message=question))
    if not question:
        assert (await failure_of(post)).violations.keys() == {"user_message"}
    else:
        endpoint.script(Stream(answer))
        if Content(question).json_bytes + Content(answer).json_bytes > MAX_TURN_BYTES:
            assert (await failure_of(post)).reason == "TURN_TOO_LARGE"
        else:
            await post
            expected += [question, answer]
    response = await served.stub.ListMessages(pb.ListMessagesRequest(id=name))
    assert [message.content for message in response.messages] == expected
    async with TableServiceClient.from_connection_string(account.connection_string) as service:
        rows = await raw_rows(service.get_table_client("ChatState"), name)
    starts = [message["content"] for message in read_conversation(rows)]
    assert all(text.startswith(start) for start, text in zip(starts, expected, strict=True))
    await served.stub.DeleteAssistant(pb.DeleteAssistantRequest(id=name))
