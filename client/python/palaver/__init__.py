"""Palaver: assistants over gRPC.

A Palaver server stores conversations and calls the model. This library creates assistants on the server, posts user
queries to them and streams the replies:

    with palaver.Client("localhost:50051") as client:
        client.create_assistant("support-42", if_exists="keep")
        for text in client.post_user_query("support-42", "Hello!").text:
            print(text, end="", flush=True)

`palaver.AsyncClient` does the same for asyncio. `palaver.v1` contains the generated messages and stubs.
"""

from palaver._client_async import AsyncClient
from palaver._client_sync import Client
from palaver._errors import (
    AbortedError,
    AlreadyExistsError,
    CanceledError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PalaverError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from palaver._reply_async import AsyncReply
from palaver._reply_sync import Reply
from palaver._types import (
    Assistant,
    CreateAssistantResult,
    Event,
    FinishReason,
    IfExists,
    Message,
    OnDisconnect,
    Order,
    Progress,
    ProgressPhase,
    QueryOptions,
    Role,
    Skill,
    SkillCall,
    SkillResult,
    TextDelta,
    TurnCompleted,
    TurnStarted,
    Usage,
)

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "Assistant",
    "AsyncClient",
    "AsyncReply",
    "CanceledError",
    "Client",
    "CreateAssistantResult",
    "DataLossError",
    "DeadlineExceededError",
    "Event",
    "FailedPreconditionError",
    "FieldViolation",
    "FinishReason",
    "IfExists",
    "InternalError",
    "InvalidArgumentError",
    "Message",
    "NotFoundError",
    "OnDisconnect",
    "Order",
    "PalaverError",
    "PermissionDeniedError",
    "Progress",
    "ProgressPhase",
    "QueryOptions",
    "Reply",
    "ResourceExhaustedError",
    "Role",
    "Skill",
    "SkillCall",
    "SkillResult",
    "TextDelta",
    "TurnCompleted",
    "TurnStarted",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "Usage",
]
