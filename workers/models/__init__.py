"""Models that runs train. Importing this package registers the mixers and inner layers that come with it."""

from workers.models import attention, h3, hyena, mamba, no_gate, s4d, s6  # noqa: F401 - they register themselves
from workers.models.lm import LanguageModel, ModelState, build_model
from workers.models.parameters import count_parameters, expected_parameters, parameter_groups
from workers.models.registry import Inner, LayerState, Mixer, register_inner, register_mixer

__all__ = [
    "Inner",
    "LanguageModel",
    "LayerState",
    "Mixer",
    "ModelState",
    "build_model",
    "count_parameters",
    "expected_parameters",
    "parameter_groups",
    "register_inner",
    "register_mixer",
]
