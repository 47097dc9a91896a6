"""Draws by seeds on Triton's interpreter, against Philox 4x32-10 written out (Salmon et al. 2011, section 4.2)."""

from __future__ import annotations

import pytest
import torch

from kernels.streams import Stream, draw_integers, draw_uniform

pytestmark = pytest.mark.interpreter

SEEDS = (5, 2**62 + 123456789)
THREADS = 512


def philox(seed: int, call: int, thread: int) -> list[int]:
    key = [seed & 0xFFFFFFFF, seed >> 32]
    a, b, c, d = call, 0, thread, 0
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b = second >> 32 ^ b ^ key[0], second & 0xFFFFFFFF
        c, d = first >> 32 ^ d ^ key[1], first & 0xFFFFFFFF
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return [a, b, c, d]


def words(seed: int, offset: int, count: int, per_call: int) -> list[list[int]]:
    """Return the words that make each of so many numbers, as PyTorch deals them to its threads."""
    threads = min(THREADS, -(-count // 256) * 256)
    width = 4 // per_call
    found = []
    for place in range(count):
        turn, thread = divmod(place, threads)
        call, part = divmod(turn, per_call)
        found.append(philox(seed, offset + call, thread)[part * width : (part + 1) * width])
    return found


def streams() -> Stream:
    return Stream(torch.tensor(SEEDS), THREADS)


def test_philox_is_philox() -> None:
    assert philox(0, 0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # Random123's known answer


@pytest.mark.parametrize("count", [1, 300, 4 * THREADS + 5])
def test_integers_and_where_the_next_draw_begins(count: int) -> None:
    stream = streams()
    found = draw_integers(stream, -3, 12, (count,), torch.int64)
    after = draw_integers(stream, 0, 7, (2, 1), torch.int64)
    calls = -(-count // (4 * min(THREADS, -(-count // 256) * 256)))
    for seed, own, later in zip(SEEDS, found.tolist(), after.flatten(1).tolist(), strict=True):
        assert own == [word % 15 - 3 for (word,) in words(seed, 0, count, 4)]
        assert later == [word % 7 for (word,) in words(seed, calls, 2, 4)]


def test_ranges_of_more_than_28_bits_take_two_words() -> None:
    found = draw_integers(streams(), 0, 2**40, (700,), torch.int64)
    for seed, own in zip(SEEDS, found.tolist(), strict=True):
        assert own == [(first << 32 | second) % 2**40 for first, second in words(seed, 0, 700, 2)]


def test_uniform_numbers() -> None:
    single = draw_uniform(streams(), (40,), torch.float32)
    double = draw_uniform(streams(), (40,), torch.float64)
    for seed, own, fine in zip(SEEDS, single, double, strict=True):
        expected = torch.tensor([word for (word,) in words(seed, 0, 40, 4)]).float() * 2.0**-32 + 2.0**-33
        assert torch.equal(own, expected)
        pairs = torch.tensor([first ^ second << 21 for first, second in words(seed, 0, 40, 2)])
        assert torch.equal(fine, pairs.double() * 2.0**-53 + 2.0**-54)
