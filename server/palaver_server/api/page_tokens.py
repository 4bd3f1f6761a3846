"""Page tokens, which hold the position of the next page and a hash of the listing that they belong to."""

from __future__ import annotations

import base64
import binascii

from palaver.v1 import admin_service_pb2, assistant_service_pb2
from palaver_server.api.request_hash import request_hash

_LISTING_BYTES = 8

INDEX_BYTES = 4
"""The size of a position among messages, which is the index of the message before it."""

ListRequest = assistant_service_pb2.ListMessagesRequest | admin_service_pb2.ListAssistantsRequest


def page_token(request: ListRequest, position: bytes) -> str:
    """Returns the token of the page at a position."""
    return base64.urlsafe_b64encode(position + _listing_hash(request)).decode()


def message_position(index: int) -> bytes:
    """Returns the position behind the message with this index."""
    return index.to_bytes(INDEX_BYTES, "big")


def parse_page_token(request: ListRequest) -> bytes | None:
    """Returns the position in the token of a request, or None if the token is invalid or of another listing."""
    try:
        token = base64.b64decode(request.page_token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    position, listing = token[:-_LISTING_BYTES], token[-_LISTING_BYTES:]
    return position if position and listing == _listing_hash(request) else None


def _listing_hash(request: ListRequest) -> bytes:
    return request_hash(request, without=("page_size", "page_token"))[:_LISTING_BYTES]
