"""What a page holds, and how large that becomes: bytes are deflated and written as base64, plain values as JSON."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

from scfm_widgets.codec import plain


def packed_size(*parts: bytes) -> int:
    """Bytes that these take on a page; packed with others they take somewhat less."""
    return sum(-(-len(zlib.compress(part, 6)) // 3) * 4 for part in parts)


@dataclass
class Room:
    """What is still free on a page.

    Attributes
    ----------
    left
        Bytes.
    """

    left: int

    def take(self, *parts: bytes, text: int = 0) -> bool:
        """Take what some bytes and `text` letters of JSON need, all of it or nothing; whether there was room."""
        # Measuring what is far too large takes as long as packing it.
        need = text + (packed_size(*parts) if self.left > text else 0)
        if need > self.left:
            return False
        self.left -= need
        return True


@dataclass
class Payload:
    """What a page holds.

    Attributes
    ----------
    traits
        The bench's state as plain values, by the traits' names.
    buffers
        The traits that are bytes.
    replies
        Answers by question, such as ``"column:gene:CD3D"``: plain values, and bytes or ``None``.
    responses
        One per gene and dose: ``gene``, ``dose``, ``perturbation`` (plain values) and ``after`` (packed places).
    together
        Answers of several genes at once: ``doses``, ``perturbation`` and ``after``.
    left_out
        What is not on the page for its size, a few words each.
    kernel_only
        What needs a kernel, and so is on no page.
    """

    traits: dict[str, Any]
    buffers: dict[str, bytes]
    replies: dict[str, tuple[dict[str, Any], bytes | None]] = field(default_factory=dict)
    responses: list[dict[str, Any]] = field(default_factory=list)
    together: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    kernel_only: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Give it as the front end reads it (``widgets/src/standalone.ts``); all bytes are deflated together."""
        parts: list[bytes] = []
        at = 0

        def put(data: bytes) -> dict[str, int]:
            nonlocal at
            # Places are pairs of uint16 and must begin at an even byte.
            padded = data + b"\0" * (len(data) % 2)
            parts.append(padded)
            at += len(padded)
            return {"offset": at - len(padded), "length": len(data)}

        document = {
            "traits": plain(self.traits),
            "bytes": {name: put(data) for name, data in self.buffers.items()},
            "replies": {
                key: {"content": plain(content), **({} if data is None else {"buffer": put(data)})}
                for key, (content, data) in self.replies.items()
            },
            **{
                name: [{**plain({**item, "after": None}), "after": put(item["after"])} for item in answers]
                for name, answers in (("responses", self.responses), ("together", self.together))
            },
            "deflated": True,
        }
        document["data"] = base64.b64encode(zlib.compress(b"".join(parts), 9)).decode()
        # Inside a script element only "</" could end it; "<!--" could open a comment.
        return json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
