"""Palaver: assistants over gRPC.

A Palaver server keeps conversations and calls the model; this library creates assistants there, posts user queries to
them and streams the replies:

    with palaver.Client("localhost:50051") as client:
        client.create_assistant("support-42", if_exists="keep")
        for text in client.post_user_query("support-42", "Hello!").text:
            print(text, end="", flush=True)

`palaver.AsyncClient` is the same for asyncio. `palaver.v1` holds the generated messages and stubs of the contract.
"""

from palaver._async_client import AsyncClient
from palaver._async_reply import AsyncReply
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
from palaver._sync_client import Client
from palaver._sync_reply import Reply
from palaver._types import (
    Assistant,
    CreateAssistantResult,
    Event,
    FinishReason,
    IfExists,
    Message,
    OnDisconnect,
    Order,
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
