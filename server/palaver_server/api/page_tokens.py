"""Page tokens, which hold the position of the next page and a hash of the listing that they belong to."""

from __future__ import annotations

import base64
import binascii

from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.api.request_hash import request_hash

_INDEX_BYTES = 4
_LISTING_BYTES = 8


def page_token(request: pb.ListMessagesRequest, last_index: int) -> str:
    """Returns the token of the page after the message with this index."""
    return base64.urlsafe_b64encode(last_index.to_bytes(_INDEX_BYTES, "big") + _listing_hash(request)).decode()


def parse_page_token(request: pb.ListMessagesRequest) -> int | None:
    """Returns the index in the token of a request, or None if the token is invalid or belongs to another listing."""
    try:
        token = base64.b64decode(request.page_token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if token[_INDEX_BYTES:] != _listing_hash(request):
        return None
    return int.from_bytes(token[:_INDEX_BYTES], "big")


def _listing_hash(request: pb.ListMessagesRequest) -> bytes:
    return request_hash(request, without=("page_size", "page_token"))[:_LISTING_BYTES]
