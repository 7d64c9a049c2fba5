"""How a request wants its tokens chosen: validated and resolved values, nothing optional by accident."""

from __future__ import annotations

import msgspec


class Sampling(msgspec.Struct, frozen=True, array_like=True):
    """Sampling parameters of one sequence, resolved (request over generation_config.json over neutral values).

    Formulas follow the public OpenAI API reference (presence, frequency), Keskar et al. 2019 (repetition),
    Holtzman et al. 2019 (top_p) and Nguyen et al. 2024 (min_p).
    """

    temperature: float = 1.0  # 0 means greedy
    top_p: float = 1.0  # keep the smallest set of tokens whose probability reaches this
    top_k: int = 0  # keep the k most likely tokens; 0 means all
    min_p: float = 0.0  # keep tokens at least this likely relative to the most likely one
    presence_penalty: float = 0.0  # subtracted once for every token that was generated before
    frequency_penalty: float = 0.0  # subtracted for each time the token was generated before
    repetition_penalty: float = 1.0  # divides positive and multiplies negative logits of tokens in prompt or output
    logit_bias: dict[int, float] = {}  # added to the logits of these token ids; -inf forbids one
    seed: int = 0  # the noise of position p depends on (seed, p) alone
    max_tokens: int = 16  # tokens to generate at most; 0 computes the prompt only
    min_tokens: int = 0  # stop_ids are impossible before this many tokens
    stop_ids: tuple[int, ...] = ()  # a sampled token in this set ends the sequence (it is still reported)
    logprobs: int | None = None  # None: none; k: the sampled token's and the k best alternatives'
    prompt_logprobs: int | None = None  # the same for every prompt token but the first
    grammar: str | None = None  # llguidance grammar that the generated text must follow; stop ids are possible where it may end

    @property
    def greedy(self) -> bool:
        """True when the most likely token is always taken."""
        return self.temperature == 0.0

    @property
    def penalised(self) -> bool:
        """True when the logits depend on the tokens that came before."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0 or self.repetition_penalty != 1.0
