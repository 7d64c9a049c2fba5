"""The signature of a thinking block: the thought itself, packed, so that it comes back as it was generated.

Clients trim, re-wrap or hide thoughts but return signatures untouched. A thought that is replayed exactly keeps the prompt,
and with it the KV cache, the same. Signatures of other services are nothing that could be read here: they give None.
"""

from __future__ import annotations

import base64
import zlib

_OURS = "tw1_"
_MOST_BYTES = 8 * 2**20  # a longer thought than any window holds; bounds what a forged signature can unpack to


def sign(thought: str) -> str:
    """The signature; the same for the same thought."""
    return _OURS + base64.b64encode(zlib.compress(thought.encode("utf-8", "replace"))).decode()


def signed(signature: str) -> str | None:
    """The thought that a signature of ours holds; None for any other string."""
    if not signature.startswith(_OURS):
        return None
    try:
        packed = base64.b64decode(signature[len(_OURS) :], validate=True)
        unpacker = zlib.decompressobj()
        thought = unpacker.decompress(packed, _MOST_BYTES)
        return thought.decode() if unpacker.eof else None
    except (ValueError, zlib.error):  # no ASCII, no base64, no UTF-8; or nothing that was packed
        return None
