"""Scores are sums of log probabilities of the continuation alone, whatever else is in the batch and however it is cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from workers.errors import SpecError
from workers.models import LanguageModel, build_model
from workers.specs import ModelSpec
from workers.training import cutting
from workers.training.loglikelihood import Request, Score, score
from workers.training.precision import Placement

VOCAB = 11
CPU = Placement(torch.device("cpu"), 1, "fp32", "test")
MODELS: dict[str, dict[str, Any]] = {
    "mamba": {},
    "s4d": {"inner": "s4d"},
    "h3": {"mixer": "h3", "inner": "s4d", "h3_shift_state": 3},
    "hyena": {"inner": "hyena", "hyena_l_max": 64, "hyena_emb": 3, "hyena_width": 8},
    "attention": {"mixer": "attention", "n_heads": 2},
    "learned": {"mixer": "attention", "n_heads": 2, "positions": "learned", "max_positions": 48},
}


def model_of(changes: dict[str, Any]) -> LanguageModel:
    torch.manual_seed(0)
    model = build_model(ModelSpec.model_validate({"d_model": 8, "d_state": 4, **changes}), VOCAB)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def requests() -> list[Request]:
    generator = torch.Generator().manual_seed(0)

    def draw(length: int) -> list[int]:
        return torch.randint(0, VOCAB, (length,), generator=generator).tolist()

    return [Request(draw(before), draw(after)) for before, after in ((1, 4), (5, 1), (9, 2), (3, 7), (30, 3), (4, 4))]


def directly(model: LanguageModel, request: Request) -> Score:
    """One request by itself, from the definition."""
    tokens = torch.tensor([[*request.context, *request.continuation]])
    with torch.no_grad():
        logprobs = F.log_softmax(model(tokens[:, :-1]).double(), dim=-1)[0, len(request.context) - 1 :]
    wanted = torch.tensor(request.continuation)
    return Score(logprobs.gather(-1, wanted[:, None]).sum().item(), torch.equal(logprobs.argmax(-1), wanted))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
@pytest.mark.parametrize("name", MODELS)
def test_a_score_does_not_depend_on_its_batch(name: str, batch_size: int) -> None:
    model = model_of(MODELS[name])
    found = score(model, requests(), batch_size, CPU)
    for one, request in zip(found, requests(), strict=True):
        expected = directly(model, request)
        assert one.logprob == pytest.approx(expected.logprob, rel=1e-4)
        assert one.greedy == expected.greedy


@pytest.mark.parametrize("name", MODELS)
def test_long_sequences_are_read_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(MODELS[name])
    whole = score(model, requests(), 4, CPU)
    monkeypatch.setattr(cutting, "PIECE_TOKENS", 12)
    for one, other in zip(score(model, requests(), 4, CPU), whole, strict=True):
        assert one.logprob == pytest.approx(other.logprob, rel=1e-4)
        assert one.greedy == other.greedy


def test_what_the_model_would_say_is_greedy() -> None:
    model = model_of({})
    said, state = [], model.allocate_state(1)
    with torch.no_grad():
        logits, _ = model.step(torch.tensor([3]), state)
        for _ in range(5):
            said.append(int(logits.argmax()))
            logits, _ = model.step(torch.tensor([said[-1]]), state)
    other = [*said[:-1], (said[-1] + 1) % VOCAB]
    likely, unlikely = score(model, [Request([3], said), Request([3], other)], 2, CPU)
    assert (likely.greedy, unlikely.greedy) == (True, False)
    assert likely.logprob > unlikely.logprob


def test_continuations_of_one_token_share_out_the_probability() -> None:
    every = score(model_of({}), [Request([1, 2], [token]) for token in range(VOCAB)], 4, CPU)
    assert torch.tensor([one.logprob for one in every]).exp().sum().item() == pytest.approx(1, rel=1e-5)
    assert sum(one.greedy for one in every) == 1


def test_the_mode_is_put_back() -> None:
    model = model_of({"dropout": 0.5}).train()
    first, again = (score(model, requests(), 3, CPU) for _ in range(2))
    assert first == again
    assert model.training


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([], [1]), "request 2: context and continuation need at least one token"),
        (Request([1], []), "a first token has nothing to be predicted from"),
        (Request([1], [VOCAB]), "token 11, and the model knows 0 .. 10"),
        (Request([-1], [1]), "token -1"),
        (Request([1] * 48, [1, 2]), "request 2: .*learned positions end at model.max_positions"),
    ],
)
def test_what_cannot_be_scored_is_named(request_: Request, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        score(model_of(MODELS["learned"]), [Request([1], [2]), request_], 2, CPU)
