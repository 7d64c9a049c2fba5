"""The context window: what fits, what is clamped, what is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenwell.service.window import OVERFLOW_CODE, fit
from tokenwell.wire.errors import RequestError
from tokenwell.wire.messages import Generate
from tokenwell.wire.sampling import Sampling


@given(prompt=st.integers(1, 40), window=st.integers(1, 40), wanted=st.integers(0, 60), least=st.integers(0, 60))
def test_fit(prompt: int, window: int, wanted: int, least: int) -> None:
    request = Generate("a", [1] * prompt, Sampling(max_tokens=wanted, min_tokens=min(least, wanted)))
    fitted = fit(request, window, "messages")
    if isinstance(fitted, RequestError):
        assert prompt + min(wanted, 1) > window
        assert (
            fitted.code == OVERFLOW_CODE and f"is {window} tokens" in fitted.message and f"in {prompt} tokens" in fitted.message
        )
        return
    assert prompt + fitted.sampling.max_tokens <= window
    assert fitted.sampling.max_tokens == min(wanted, window - prompt)
    assert fitted.sampling.min_tokens <= fitted.sampling.max_tokens
    assert fitted.sampling.max_tokens > 0 or wanted == 0
