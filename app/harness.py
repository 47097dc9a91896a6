"""A trained model for EleutherAI's `lm_eval`, where that package is installed; mambalab does not depend on it.

`lm_eval.simple_evaluate(model=harness_model(open_scorer(None, "CHECKPOINT")), tasks=["lambada_openai"])`, with
`open_scorer` of `app.loglikelihood`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.loglikelihood import Scorer


def harness_model(scorer: Scorer) -> Any:
    """Return an `lm_eval.api.model.LM` that answers `loglikelihood` requests: multiple choice, LAMBADA and the like.

    Raises:
        ModuleNotFoundError: lm_eval is not installed.
    """
    from lm_eval.api.model import LM

    class MambalabModel(LM):  # type: ignore[misc] # the package is typed to no useful degree, and may be absent
        """Scores with the model that the scorer holds."""

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:  # noqa: ARG002
            """Return (log probability, greedy) of each request's (context, continuation)."""
            pairs = [
                scorer.encode(context, continuation, f"request {number}")
                for number, (context, continuation) in enumerate(_arguments(requests))
            ]
            return [(score.logprob, score.greedy) for score in scorer.score(pairs)]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
            """Return each text's log probability, after the tokenizer's prefix."""
            pairs = [
                scorer.encode("", text, f"request {number}") for number, (text,) in enumerate(_arguments(requests))
            ]
            return [score.logprob for score in scorer.score(pairs)]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            """Refuse: tasks that generate are not served."""
            raise NotImplementedError("mambalab scores continuations and generates none for lm_eval")

    return MambalabModel()


def _arguments(requests: list[Any]) -> list[tuple[Any, ...]]:
    return [request.args for request in requests]
