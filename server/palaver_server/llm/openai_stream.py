"""The bytes of a streamed chat completion, split into its chunks.

The SDK's typed stream costs ten times as much per piece as splitting the bytes and decoding the few fields that are
used. The SDK therefore opens the request, and this module reads the response. A property test compares it with the
SDK's typed stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from palaver_server.domain.errors import ModelStreamBroken
from palaver_server.llm.growing_json import GrowingJson
from palaver_server.llm.openai_chunks import Chunk, ChunkDecoder, ErrorEvent

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""The largest event of a stream. A reply that can be stored is smaller, even as a single event."""

LINES_AT_ONCE = 10_000

DONE = b"[DONE]"
BARE_JSON = (b"{", b"error: {", b"error:{")
MARKED_DATA = b"\xef\xbb\xbfdata:"  # some servers begin with a byte order mark


class ChunkReader:
    """Splits the bytes of a stream into its chunks, wherever the reads begin and end."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # the line that has begun, in the pieces in which it came
        self._rest_size = 0
        self._ended_with_cr = False
        self._data: list[bytes] = []
        self._size = 0
        self._json: GrowingJson | None = None  # the data, once it is asked whether it is whole
        self._lines_in_json = 0
        self._chunks = ChunkDecoder()
        self._has_begun = False
        self._body: list[bytes] | None = None  # of a response that is no stream of events
        self.is_done = False
        """True after the endpoint has sent `[DONE]`. Everything after that is ignored."""

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Takes the next bytes and yields the chunks that they complete.

        Raises `ModelStreamBroken` for an event that is not a chunk and `ErrorEvent` for an error, in either case after
        the chunks before it.
        """
        if self._is_one_event(data):
            yield self._chunks.decode(data[6:-2])
            return
        if not self._has_begun or self._body is not None:
            data = self._without_body(data)
        for line in self._lines(data):
            if self.is_done:
                break
            # Some servers leave out the blank line between two events.
            if self._data and (not line or self._is_next_event(line)):
                chunk = self._dispatch()
                if chunk is not None:
                    yield chunk
            if line:
                self._take_field(line)
        if self._rest_size + self._size > MAX_EVENT_BYTES:
            raise ModelStreamBroken("the endpoint sent an event that does not end")

    def _is_one_event(self, data: bytes) -> bool:
        """Returns whether the bytes are exactly one event, as they are while a model writes token by token."""
        return (
            data.startswith(b"data: {")
            and data.endswith(b"\n\n")
            and data.count(b"\n") == 2
            and b"\r" not in data
            and not (self._rest or self._data or self._ended_with_cr or self.is_done)
        )

    def _lines(self, data: bytes) -> list[bytes]:
        """Returns the lines that the next bytes complete."""
        if self._ended_with_cr and data:
            data = data.removeprefix(b"\n")  # the second half of a line end that two reads share
            self._ended_with_cr = False
        if b"\r" in data:
            self._ended_with_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        if len(lines) == 1:
            if data:
                self._rest.append(data)
                self._rest_size += len(data)
            return []
        if self._rest:
            lines[0] = b"".join([*self._rest, lines[0]])
        rest = lines.pop()
        self._rest = [rest] if rest else []
        self._rest_size = len(rest)
        return lines

    def _without_body(self, data: bytes) -> bytes:
        """Keeps data for `finish` if the response turns out to be a document, and returns it otherwise."""
        if self._body is None:
            begin = data.lstrip(b"\xef\xbb\xbf \t\r\n")
            if not begin:
                return data
            self._has_begun = True
            if begin[:1] not in b"{[<":
                return data
            self._body = []
        self._body.append(data)
        self._size += len(data)
        if self._size > MAX_EVENT_BYTES:
            raise ModelStreamBroken("the endpoint sent a document that does not end")
        return b""

    def _is_next_event(self, line: bytes) -> bool:
        """Returns whether a line begins another event although no blank line has ended the one before it."""
        return (
            line.startswith((b"data: {", b"data:{", b"data: [DONE]", b"data:[DONE]"))
            and self._data[-1].endswith(b"}")
            and self._is_whole()
        )

    def _is_whole(self) -> bool:
        """Returns whether the data so far is a JSON value."""
        if self._json is None:
            self._json, self._lines_in_json = GrowingJson(), 0
        # JSON is the same in Latin-1, where any bytes are text.
        self._json.add(b"\n".join(self._data[self._lines_in_json :]).decode("latin-1"))
        self._lines_in_json = len(self._data)
        return self._json.is_whole()

    def finish(self) -> Iterator[Chunk]:
        """Yields what the end of the stream completes: a last event without a blank line, or a whole document.

        Some endpoints answer a request for a stream with a single JSON document, a completion or an error.
        """
        if self._body is not None:
            yield self._document(b"".join(self._body))
            return
        if self._rest and not self.is_done:
            self._take_field(b"".join(self._rest))
            self._rest.clear()
        if self._data and not self.is_done:
            chunk = self._dispatch()
            if chunk is not None:
                yield chunk

    def _take_field(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            value = line[6:] if line.startswith(b"data: ") else line[5:]
        elif line == b"data":
            value = b""
        elif line.startswith(MARKED_DATA):
            self._take_field(line[3:])
            return
        elif line.startswith(BARE_JSON) and not self._data:
            value = line.removeprefix(b"error:").strip()  # some servers write an error like this into a stream
        else:
            return  # comments, and the fields `event`, `id` and `retry`, which have no use here
        self._data.append(value)
        self._size += len(line) + 1

    def _dispatch(self) -> Chunk | None:
        data = self._data[0] if len(self._data) == 1 else _joined(self._data)
        self._data.clear()
        self._size = 0
        self._json = None
        if data.startswith(DONE):
            self.is_done = True
            return None
        return self._chunks.decode(data)

    def _document(self, body: bytes) -> Chunk:
        try:
            chunk = self._chunks.decode(body.strip(b"\xef\xbb\xbf \t\r\n"))
        except ModelStreamBroken:
            raise ErrorEvent(body) from None
        if not chunk.choices:
            raise ErrorEvent(body)
        return chunk


def _joined(lines: Sequence[bytes]) -> bytes:
    """Returns lines as one text. `join` needs 80 bytes for each of them meanwhile, so it never gets all of many."""
    starts = range(0, len(lines), LINES_AT_ONCE)
    return b"\n".join([b"\n".join(lines[start : start + LINES_AT_ONCE]) for start in starts])
