"""A trained model for EleutherAI's `lm_eval`, where that package is installed; mambalab does not depend on it.

from app.harness import harness_model
from app.loglikelihood import open_scorer
lm_eval.simple_evaluate(model=harness_model(open_scorer(None, "CHECKPOINT")), tasks=["lambada_openai"])
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
            pairs = []
            for number, request in enumerate(requests):
                context, continuation = request.args
                pairs.append(scorer.encode(context, continuation, f"request {number}"))
            return [(score.logprob, score.greedy) for score in scorer.score(pairs)]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
            """Return each text's log probability given its first token, which has nothing before it."""
            from workers.training.loglikelihood import Request

            assert scorer.tokenizer is not None, "rolling requests are text: open the scorer with a tokenizer"
            texts = [scorer.tokenizer.encode(*request.args) for request in requests]
            return [score.logprob for score in scorer.score([Request(text[:1], text[1:]) for text in texts])]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            """Refuse: tasks that generate are not served."""
            raise NotImplementedError("mambalab scores continuations and generates none for lm_eval")

    return MambalabModel()
