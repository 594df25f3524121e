"""Frames: a 4-byte big-endian length, then that many bytes of one UTF-8 JSON object.

Everything that crosses the run's socket or the template's control pipe is framed here. `pack` takes JSON
*text*, because the hot paths assemble theirs by hand around values that are already encoded.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from struct import Struct
from typing import Any

MAX_FRAME = 20 * 1024 * 1024
_HEADER = Struct(">I")
_pack_header = _HEADER.pack
_decode = json.JSONDecoder().raw_decode


class FrameTooLarge(ValueError):
    """A frame beyond MAX_FRAME; the other side would drop the connection."""


def pack(text: str) -> bytes:
    """Frame JSON text. Lone surrogates, which UTF-8 cannot hold, become `?`."""
    try:
        body = text.encode()
    except UnicodeEncodeError:
        body = text.encode("utf-8", "replace")
    return _framed(body)


def with_last(frame: bytes) -> bytes:
    """A result frame with a member more: its process serves no other run."""
    try:
        return _framed(frame[_HEADER.size : -1] + b',"last":true}')
    except FrameTooLarge:
        return frame  # that the process ends can be seen all the same


def _framed(body: bytes) -> bytes:
    if len(body) > MAX_FRAME:
        raise FrameTooLarge(f"frame of {len(body)} bytes exceeds {MAX_FRAME}")
    return _pack_header(len(body)) + body


def pack_value(value: dict[str, Any]) -> bytes:
    return pack(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def quote(text: str) -> str:
    """`text` as a JSON string; the C encoder, without the cost of `json.dumps`."""
    return encode_basestring(text)


class FrameBuffer:
    """Collects bytes as they arrive and gives back whole frames."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> None:
        self._bytes = self._bytes + data if self._bytes else data

    def next(self) -> dict[str, Any] | None:
        """The next complete frame, or None until more bytes are fed."""
        data = self._bytes
        if len(data) < 4:
            return None
        end = 4 + _HEADER.unpack_from(data)[0]
        if end > MAX_FRAME + 4:
            raise FrameTooLarge(f"incoming frame of {end - 4} bytes exceeds {MAX_FRAME}")
        if len(data) < end:
            return None
        self._bytes = data[end:]
        # Without the detection of encodings and the search for blanks of `json.loads`.
        frame = _decode(str(data[4:end], "utf-8"))[0]
        if not isinstance(frame, dict):
            raise ValueError("a frame must hold a JSON object")
        return frame
