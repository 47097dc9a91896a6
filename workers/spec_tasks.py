"""What a task is: the sizes and switches of each data source. Pure: neither torch nor Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from workers.spec_base import Spec


class CopyingSpec(Spec):
    """Copying with fixed spacing: the control that a time-invariant model solves (S4's `variable=False`)."""

    name: Literal["copying"] = "copying"
    context: int = Field(112, ge=2, description="positions before the markers: data tokens and noise")
    memorize: int = Field(16, ge=1, description="data tokens to reproduce, one marker each")
    vocab: int = Field(16, ge=3, description="all tokens: noise 0, marker vocab-1, data in between")

    @model_validator(mode="after")
    def _fits(self) -> CopyingSpec:
        if self.memorize > self.context:
            raise ValueError(f"memorize must be at most context, got {self.memorize} > {self.context}")
        return self


class SelectiveCopyingSpec(Spec):
    """Copying with random spacing (Gu & Dao 2023, 4.1.1); S4's `variable=True`, or MAD's task of the same name.

    The paper leaves open what asks for the tokens. `markers`: S4's, a marker for each. `mad`: one copy token, then a
    blank for each (athms/mad-lab). `blank`: noise alone, as the paper's Figure 2 draws it, so one symbol more is data.
    """

    name: Literal["selective-copying"] = "selective-copying"
    context: int = Field(4096, ge=2, description="positions before the markers: data tokens scattered in noise")
    memorize: int = Field(16, ge=1)
    vocab: int = Field(16, ge=3)
    layout: Literal["markers", "mad", "blank"] = "markers"

    @model_validator(mode="after")
    def _fits(self) -> SelectiveCopyingSpec:
        if self.memorize > self.context:
            raise ValueError(f"memorize must be at most context, got {self.memorize} > {self.context}")
        return self


class InductionHeadsSpec(Spec):
    """Recall the token that followed the special token (Gu & Dao 2023, 4.1.2)."""

    name: Literal["induction-heads"] = "induction-heads"
    seqlen: int = Field(256, ge=4)
    vocab: int = Field(16, ge=3, description="all tokens; the special one is vocab-1")
    trigger_prefix: int | None = Field(
        None, ge=1, description="the first special token lies within so many positions; none: anywhere"
    )
    loss_on: Literal["last", "all"] = "last"


class MqarSpec(Spec):
    """Multi-query associative recall (Arora et al. 2023, arXiv 2312.04927): every key is asked for once."""

    name: Literal["mqar"] = "mqar"
    seqlen: int = Field(64, ge=4)
    kv_pairs: int | tuple[int, ...] = Field(
        4,
        description="key-value pairs; several numbers: each training sequence has one of them, evaluation the largest",
    )
    vocab: int = Field(8192, ge=4, description="filler 0, keys 1 .. vocab/2-1, values vocab/2 .. vocab-1")
    power: float = Field(
        0.01, gt=0, description="gap g between pairs and query has weight g^(power-1); small: mostly near"
    )
    filler: Literal["zero", "random"] = "random"  # random: any token, keys too, as Zoology's `random_non_queries`
    curriculum: bool = Field(
        False, description="train the numbers of kv_pairs in turn, as they are listed, an equal share of the steps each"
    )

    @property
    def pair_counts(self) -> tuple[int, ...]:
        """The numbers of pairs that training draws from."""
        return (self.kv_pairs,) if isinstance(self.kv_pairs, int) else self.kv_pairs

    @model_validator(mode="after")
    def _fits(self) -> MqarSpec:
        if self.vocab % 2:
            raise ValueError(f"vocab must be even (keys and values share it), got {self.vocab}")
        if not self.pair_counts or min(self.pair_counts) < 1:
            raise ValueError(f"kv_pairs must name numbers of at least 1, got {self.kv_pairs}")
        most = max(self.pair_counts)
        if 4 * most > self.seqlen:
            raise ValueError(
                f"seqlen must be at least 4 kv_pairs (pairs, then room for as many queries), got {self.seqlen} and {most}"
            )
        if most > self.vocab // 2 - 1:
            raise ValueError(f"kv_pairs must be at most vocab/2 - 1 different keys, got {most} and vocab {self.vocab}")
        return self


class AssociativeRecallSpec(Spec):
    """Recall the value that stood beside a key (safari's `assoc_recall`; Poli et al. 2023, Table 4.2)."""

    name: Literal["associative-recall"] = "associative-recall"
    pairs: int = Field(15, ge=1, description="key-value pairs; a key comes with the same value each time")
    vocab: int = Field(30, ge=4, description="all tokens: keys, values, and the query sign vocab-1")
    loss_on: Literal["last", "all"] = "last"

    @model_validator(mode="after")
    def _halves(self) -> AssociativeRecallSpec:
        if self.vocab % 2:
            raise ValueError(f"vocab must be even (keys and values halve it), got {self.vocab}")
        return self


class ParitySpec(Spec):
    """Whether the ones so far are odd in number: the cheapest task that a real, positive transition cannot track."""

    name: Literal["parity"] = "parity"
    seqlen: int = Field(64, ge=1)
    loss_on: Literal["last", "all"] = "all"


class ModularArithmeticSpec(Spec):
    """The value of `x1 op x2 op .. xn =` modulo a number; products bind before sums (Deletang et al. 2022)."""

    name: Literal["modular-arithmetic"] = "modular-arithmetic"
    operands: int = Field(16, ge=1)
    modulus: int = Field(5, ge=2, le=1000)
    loss_on: Literal["last", "all"] = "last"  # all: at each operand, the value of the expression so far


class TextSpec(Spec):
    """Language modelling on a file or folder, of bytes or tokens; without a path, the bundled Shakespeare."""

    name: Literal["text"] = "text"
    path: str | None = None
    tokenizer: str | None = Field(
        None, description="a tokenizer.json of Hugging Face's tokenizers; none: a token is a byte"
    )
    seqlen: int = Field(256, ge=2)
    valid_fraction: float = Field(0.05, gt=0, lt=1)


class DnaSpec(Spec):
    """Next-base prediction on a FASTA file, as the paper's section 4.3 does on HG38."""

    name: Literal["dna"] = "dna"
    path: str = Field(min_length=1, description="a FASTA file, not compressed")
    seqlen: int = Field(1024, ge=2)
    valid_fraction: float = Field(0.05, gt=0, lt=1)


TaskSpec = Annotated[
    CopyingSpec
    | SelectiveCopyingSpec
    | InductionHeadsSpec
    | MqarSpec
    | AssociativeRecallSpec
    | ParitySpec
    | ModularArithmeticSpec
    | TextSpec
    | DnaSpec,
    Field(discriminator="name"),
]
