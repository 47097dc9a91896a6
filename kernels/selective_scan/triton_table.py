"""Which layout of the forward scan serves which kind of shape, from timings on an H100 and what they predict (docs/LOG.md).

A fixed table: the same shape always computes the same bits, whatever the machine is doing.
"""

from kernels.selective_scan.triton_layout import Configuration

SIXTEEN_STATES = {
    "most channels": Configuration(blocks=4, steps=2, channels=2, warps=4, lanes="states"),
    "many channels": Configuration(blocks=8, steps=1, channels=2, warps=4, lanes="states", registers=128),
    "half as many": Configuration(blocks=8, steps=1, channels=2, warps=4, lanes="states", registers=128),
    "few, long": Configuration(blocks=4, steps=2, channels=2, warps=4, lanes="states", splits=8),
    "few, short": Configuration(blocks=4, steps=2, channels=2, warps=4, lanes="states", splits=8),
    "tiny": Configuration(blocks=16, steps=1, channels=1, warps=4, lanes="states"),
}
SIXTY_FOUR_STATES = Configuration(blocks=4, steps=8, channels=1, warps=4, registers=128)

WORDS = {
    "many channels": Configuration(blocks=4, steps=2, channels=2, warps=4, lanes="products", registers=128),
    "half as many": Configuration(blocks=4, steps=2, channels=1, warps=4, lanes="products", registers=96),
    "a quarter": Configuration(blocks=4, steps=2, channels=1, warps=4, lanes="teams", registers=168, unroll=2),
    "few": Configuration(blocks=4, steps=2, channels=1, warps=8, lanes="relay", registers=128, unroll=4),
    "few, long": Configuration(blocks=4, steps=2, channels=2, warps=4, lanes="products", registers=128),
}
"""Where `Arguments.words`, and 16 states."""

WORDS_SIXTY_FOUR_STATES = Configuration(blocks=4, steps=2, channels=2, warps=4, lanes="products")
