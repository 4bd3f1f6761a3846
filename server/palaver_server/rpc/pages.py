"""Page tokens: where the next page begins, and which listing it belongs to."""

from __future__ import annotations

import base64
import binascii

from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.rpc.fingerprint import fingerprint

_INDEX_BYTES = 4
_LISTING_BYTES = 8


def page_token(request: pb.ListMessagesRequest, last_index: int) -> str:
    """Makes the token of the page behind the message with this index."""
    return base64.urlsafe_b64encode(last_index.to_bytes(_INDEX_BYTES, "big") + _listing(request)).decode()


def index_of(request: pb.ListMessagesRequest) -> int | None:
    """Reads the index back from the token of a request; None where the token is not one of this listing."""
    try:
        token = base64.b64decode(request.page_token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if token[_INDEX_BYTES:] != _listing(request):
        return None
    return int.from_bytes(token[:_INDEX_BYTES], "big")


def _listing(request: pb.ListMessagesRequest) -> bytes:
    return fingerprint(request, without=("page_size", "page_token"))[:_LISTING_BYTES]
