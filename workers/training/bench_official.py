"""The authors' language model, trained as its users train it: `mamba_ssm` beside ours in `mambalab bench train`.

Plain PyTorch around their kernels: bf16 autocast over fp32 parameters, cross-entropy of all logits, clipping, fused AdamW; eager,
or with the whole step in one CUDA graph. None of this package's own step is used, nor its deterministic algorithms, which
would slow theirs down.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.specs import RunSpec
from workers.tasks import Task
from workers.training.determinism import derive_seed
from workers.training.precision import Placement

NAME = "mamba_ssm"

_WARM_UP = 4  # steps before the recording: kernels are chosen, and the optimizer's state is made


def installed() -> bool:
    """Return whether their package is there."""
    return importlib.util.find_spec(NAME) is not None


class OfficialRig:
    """Steps of their model at a spec's shape. Has what `workers.training.measuring` asks of a rig."""

    def __init__(self, spec: RunSpec, placement: Placement, task: Task) -> None:
        self.spec, self.placement, self.task = spec, placement, task
        with torch.device(placement.device):
            self.model = build(spec, task.vocab_size).train()
        self.tokens = spec.train.batch_size * task.seqlen
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        on_gpu = placement.device.type == "cuda"
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=spec.train.lr,
            betas=(spec.train.beta1, spec.train.beta2),
            weight_decay=spec.train.weight_decay,
            fused=True,
            capturable=on_gpu,
        )
        self._generator = torch.Generator(placement.device).manual_seed(derive_seed(spec.seed, "data"))
        self._inputs, self._targets = self._drawn()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._why = "as asked" if spec.train.capture == "off" else "graphs need CUDA"

    def settle(self) -> None:
        """Do steps until the next ones cost what all later ones cost; record one where that is asked for."""
        self.advance(_WARM_UP)
        self.placement.synchronize()
        if self.spec.train.capture == "off" or self.placement.device.type != "cuda":
            return
        graph = torch.cuda.CUDAGraph()
        self._optimizer.zero_grad(set_to_none=True)
        try:
            with torch.cuda.graph(graph):
                self._step()
        except RuntimeError as error:  # what a library of others does under capture is not for us to say
            self._why = f"recording a step failed: {str(error).splitlines()[0]}"
        else:
            self._graph, self._why = graph, ""
        self.advance(_WARM_UP)
        self.placement.synchronize()

    def advance(self, steps: int) -> None:
        """Ask for so many steps; the device may be behind on return."""
        for _ in range(steps):
            inputs, targets = self._drawn()
            self._inputs.copy_(inputs)
            self._targets.copy_(targets)
            if self._graph is None:
                self._step()
            else:
                self._graph.replay()

    def mode(self) -> tuple[str, str]:
        """Return "captured" or "eager", and why."""
        return "eager" if self._graph is None else "captured", self._why

    def _drawn(self) -> tuple[Tensor, Tensor]:
        batch = self.task.sample(self._generator, self.spec.train.batch_size, self.placement.device)
        return batch.inputs, batch.targets

    def _step(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        with self.placement.autocast():
            logits: Tensor = self.model(self._inputs).logits
            loss = F.cross_entropy(logits.flatten(0, 1), self._targets.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        if self.spec.train.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.train.clip_grad_norm)
        self._optimizer.step()


def build(spec: RunSpec, vocab_size: int) -> nn.Module:
    """Return their language model with a spec's sizes."""
    models: Any = importlib.import_module("mamba_ssm.models.mixer_seq_simple")
    config: Any = importlib.import_module("mamba_ssm.models.config_mamba")
    model = spec.model
    settings = config.MambaConfig(
        d_model=model.d_model,
        n_layer=model.n_layer,
        vocab_size=vocab_size,
        pad_vocab_size_multiple=1,
        tie_embeddings=model.tie_embeddings,
        ssm_cfg={"layer": "Mamba1", "d_state": model.d_state, "dt_rank": model.dt_rank},
    )
    built: nn.Module = models.MambaLMHeadModel(settings)
    return built
