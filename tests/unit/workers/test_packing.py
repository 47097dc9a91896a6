"""What decides whether runs can be one ensemble."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from workers.packing import (
    AUTO_MOST,
    OWN_MODEL_FIELDS,
    OWN_TRAIN_FIELDS,
    differences,
    most_members,
    plan_packs,
    refusal,
    signature,
)
from workers.specs import ModelSpec, RunSpec, TrainSpec

BASE: dict[str, Any] = RunSpec().model_dump(mode="json")


def changed(table: str, name: str, value: object) -> dict[str, Any]:
    return {**BASE, table: {**BASE[table], name: value}}


def test_own_fields_are_fields() -> None:
    """A field that is renamed must be renamed here too: it would silently count as one that all have in common."""
    assert TrainSpec.model_fields.keys() >= OWN_TRAIN_FIELDS
    assert ModelSpec.model_fields.keys() >= OWN_MODEL_FIELDS


@given(st.sampled_from(sorted(OWN_TRAIN_FIELDS)), st.sampled_from(sorted(OWN_MODEL_FIELDS)), st.integers(0, 9))
def test_members_may_differ_in_what_is_their_own(train: str, model: str, value: int) -> None:
    other = {**changed("train", train, value), "seed": value, "resources": {"cpus": value}}
    other["model"] = changed("model", model, value)["model"]
    assert signature(other) == signature(BASE)
    assert differences(BASE, other) == []


@given(st.sampled_from([(table, name) for table in ("model", "task", "train") for name in sorted(BASE[table])]))
def test_anything_else_keeps_them_apart(field: tuple[str, str]) -> None:
    table, name = field
    own = {"train": OWN_TRAIN_FIELDS, "model": OWN_MODEL_FIELDS | {"a_init", "s4d_init"}, "task": frozenset[str]()}
    other = changed(table, name, "another")
    assert (signature(other) == signature(BASE)) == (name in own[table])
    assert differences(BASE, other) == ([] if name in own[table] else [f"{table}.{name}"])


def test_initial_values_of_another_kind_keep_them_apart() -> None:
    """Complex numbers and pairs of them are stored in other shapes; real initial values differ in their values alone."""
    real, half, pairs = (changed("model", "a_init", name) for name in ("lin", "half", "complex"))
    assert signature(real) == signature(half) != signature(pairs)
    lin, legs, plain = (changed("model", "s4d_init", name) for name in ("lin", "legs", "real"))
    assert signature(lin) == signature(legs) != signature(plain)


def test_dropout_is_refused() -> None:
    assert refusal(BASE) == ""
    assert "model.dropout is 0.1" in refusal(changed("model", "dropout", 0.1))


def test_activations_computed_again_are_refused() -> None:
    assert "activation_checkpointing is 'block'" in refusal(changed("train", "activation_checkpointing", "block"))
    assert refusal(changed("train", "activation_checkpointing", "off")) == ""


def test_a_fused_loss_is_refused_where_it_was_asked_for() -> None:
    assert "fused_loss is 'on'" in refusal(changed("train", "fused_loss", "on"))
    assert refusal(changed("train", "fused_loss", "auto")) == ""


def test_a_run_of_several_processes_is_no_member() -> None:
    assert "2 processes train each run" in refusal(changed("train", "data_parallel", 2))
    assert refusal(changed("train", "data_parallel", 1)) == ""


def test_by_itself_what_fills_a_gpu_is_not_packed() -> None:
    tiny = {**BASE, "task": {"name": "induction-heads", "seqlen": 256}, "train": {**BASE["train"], "batch_size": 8}}
    large = {**tiny, "train": {**tiny["train"], "batch_size": 1024}}
    assert [len(pack) for pack in plan_packs([tiny] * 20, gpus=1)] == [AUTO_MOST, 20 - AUTO_MOST]
    assert plan_packs([large] * 3, gpus=1) == [[0], [1], [2]]


def test_packs_are_dealt_in_order_and_over_all_gpus() -> None:
    small = {**BASE, "task": {"name": "copying", "context": 8}}
    wide = {**small, "model": {**BASE["model"], "d_model": 96}}
    three = {**small, "resources": {**BASE["resources"], "pack": 3}}
    assert plan_packs([small, wide, small, small, wide], gpus=1) == [[0, 2, 3], [1, 4]]
    assert plan_packs([small, wide, small, small, wide], gpus=2) == [[0, 2], [1], [3], [4]]
    assert plan_packs([small] * 3, gpus=0) == [[0], [1], [2]]
    assert plan_packs([three] * 5, gpus=0) == [[0, 1, 2], [3, 4]]
    assert plan_packs([{**small, "resources": {"gpus": 0.5}}] * 2, gpus=1) == [[0], [1]]


@given(st.lists(st.sampled_from([4, 8, 16]), max_size=12), st.integers(0, 3), st.integers(1, 5))
def test_every_run_is_in_exactly_one_pack_of_its_kind(widths: list[int], gpus: int, most: int) -> None:
    specs = [{"model": {"d_model": width}, "resources": {"gpus": "auto", "pack": most}} for width in widths]
    packs = plan_packs(specs, gpus=gpus)
    assert sorted(place for pack in packs for place in pack) == list(range(len(widths)))
    assert all(len(pack) <= most and len({widths[place] for place in pack}) == 1 for pack in packs)


def test_large_steps_are_not_packed_by_themselves() -> None:
    few, many = (changed("train", "batch_size", size) for size in (1, 512))
    assert most_members(few, given_gpu=True) > 1
    assert most_members(many, given_gpu=True) == 1
