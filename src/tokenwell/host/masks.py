"""Variables that hide cards from programs, and which cards they leave.

Sources: the CUDA and HIP programming guides (…_VISIBLE_DEVICES), the Level Zero specification (ZE_AFFINITY_MASK), the SYCL
runtime's manual (ONEAPI_DEVICE_SELECTOR).
"""

from __future__ import annotations

import re
from itertools import takewhile

# By the cards' maker, in the order in which they apply.
MASKS = {
    "intel": ("ZE_AFFINITY_MASK",),
    "nvidia": ("CUDA_VISIBLE_DEVICES",),
    "amd": ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
}
SELECTOR = "ONEAPI_DEVICE_SELECTOR"
_CARD = re.compile(r"\d{1,4}(\.\d{1,4})?|(GPU|MIG)-[\w/-]+")
_LEVEL_ZERO = re.compile(r"(?:level_zero|\*):(.+)")


def named(vendor: str, value: str | None) -> list[str] | None:
    """The words by which a mask names cards ("0", "GPU-12ab"); what follows a bad word is ignored. None: it hides nothing."""
    if value is None or (vendor == "intel" and not value.strip()):
        return None  # an empty mask hides all cards, but not with Level Zero
    return list(takewhile(_CARD.fullmatch, (word.strip() for word in value.split(","))))


def selected(value: str | None) -> list[str] | None:
    """The same of SELECTOR, for Level Zero cards."""
    terms = [term.strip() for term in (value or "").split(";") if term.strip() and not term.strip().startswith("!")]
    if not terms:
        return None
    words = [word.strip() for term in terms if (found := _LEVEL_ZERO.match(term)) for word in found[1].split(",")]
    return None if {"*", "gpu"} & set(words) else [word for word in words if _CARD.fullmatch(word)]
