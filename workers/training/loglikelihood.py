"""How likely a model finds given continuations: the sum of log probabilities, and whether it would have said them itself.

A continuation is scored token by token, each after all that comes before it. Sequences of like length share a batch and are
padded behind their end, which no causal model sees, so that how they are batched changes results by rounding alone. Models
whose state is of fixed size read long sequences in pieces, as in `workers.training.extrapolation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.errors import SpecError
from workers.models import LanguageModel
from workers.training.cutting import cut
from workers.training.extrapolation import refusal, stream
from workers.training.precision import Placement


@dataclass(frozen=True, slots=True)
class Request:
    """Tokens to score, and those before them; both have at least one."""

    context: Sequence[int]
    continuation: Sequence[int]


@dataclass(frozen=True, slots=True)
class Score:
    """The natural log of a continuation's probability, and whether each of its tokens is the likeliest one there."""

    logprob: float
    greedy: bool


def score(model: LanguageModel, requests: Sequence[Request], batch_size: int, placement: Placement) -> list[Score]:
    """Return the score of each request, in order. The model runs in eval mode and is put back into the mode it was in.

    Raises:
        SpecError: a request lacks context or continuation, has a token that the model does not know, or is too long.
    """
    for number, request in enumerate(requests, start=1):
        _check(model, request, number)
    scores: dict[int, Score] = {}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), placement.autocast():
            for places in _batches(requests, batch_size):
                scores.update(zip(places, _score(model, [requests[place] for place in places], placement), strict=True))
    finally:
        model.train(was_training)
    return [scores[place] for place in range(len(requests))]


def _check(model: LanguageModel, request: Request, number: int) -> None:
    if not request.context or not request.continuation:
        raise SpecError(
            f"request {number}: context and continuation need at least one token each, got {len(request.context)} and "
            f"{len(request.continuation)}: a first token has nothing to be predicted from"
        )
    tokens = [*request.context, *request.continuation]
    if not 0 <= min(tokens) <= max(tokens) < model.vocab_size:
        wrong = next(token for token in tokens if not 0 <= token < model.vocab_size)
        raise SpecError(f"request {number}: token {wrong}, and the model knows 0 .. {model.vocab_size - 1}")
    if why := refusal(model.spec, len(tokens) - 1):
        raise SpecError(f"request {number}: {why}")


def _batches(requests: Sequence[Request], batch_size: int) -> Iterator[list[int]]:
    """Yield the places of requests of like length, the longest first, so that too little memory shows at once."""
    lengths = [len(request.context) + len(request.continuation) for request in requests]
    order = sorted(range(len(requests)), key=lambda place: -lengths[place])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _score(model: LanguageModel, requests: list[Request], placement: Placement) -> list[Score]:
    tokens, targets = (part.to(placement.device) for part in _padded(requests))
    logprobs = torch.zeros(len(requests), dtype=torch.float64, device=placement.device)
    greedy = torch.ones(len(requests), dtype=torch.bool, device=placement.device)
    size, piece = cut(model, len(requests), tokens.shape[1], placement.device)
    for first in range(0, len(requests), size):
        rows = slice(first, first + size)
        for start, logits in stream(model, tokens[rows], piece):
            sought = targets[rows, start : start + piece]
            row, position = (sought >= 0).nonzero(as_tuple=True)
            chosen, wanted = logits[row, position].float(), sought[row, position]
            found = chosen.log_softmax(-1).gather(-1, wanted[:, None]).squeeze(-1)
            logprobs[rows].index_add_(0, row, found.double())
            greedy[rows].index_fill_(0, row[chosen.argmax(-1) != wanted], value=False)
    return [Score(*pair) for pair in zip(logprobs.tolist(), greedy.tolist(), strict=True)]


def _padded(requests: list[Request]) -> tuple[Tensor, Tensor]:
    """Return inputs and, where a token of a continuation comes next, targets, else -1; both (requests, seqlen)."""
    sequences = [[*request.context, *request.continuation] for request in requests]
    seqlen = max(len(sequence) for sequence in sequences) - 1
    inputs = torch.zeros(len(requests), seqlen, dtype=torch.int64)
    targets = torch.full((len(requests), seqlen), -1)
    for row, (request, sequence) in enumerate(zip(requests, sequences, strict=True)):
        inputs[row, : len(sequence) - 1] = torch.tensor(sequence[:-1])
        start = len(request.context) - 1
        targets[row, start : len(sequence) - 1] = torch.tensor(request.continuation)
    return inputs, targets
