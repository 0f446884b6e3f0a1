"""From an SAE's file to the weights that lie at its tap, and how much room they take.

Shape suffixes: D width of the tap on this rank, M features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.cache import opened_sae
from pilothouse.edits.sae_codes import is_without_mean, statistic_of
from pilothouse.engine.plan.tap_plan import ResidentSae, TapPlan
from pilothouse.engine.worker.sae_encoder import SaeTables, SaeTraits
from pilothouse.types import FloatArray

if TYPE_CHECKING:
    from pilothouse.engine.plan.plan import Plan

PART = 1024
"""Features whose weights are widened at once."""


def open_resident_saes(plan: Plan, tap: TapPlan) -> list[Sae]:
    """Return the SAEs that lie at a tap, in the order of its plan, read from their files.

    Raises:
        ArtefactError: a file is not on this machine, or no SAE.
        EngineError: files hold another SAE by now.
    """
    named = {facts.digest: (name, facts.ref) for name, facts in plan.body.saes.items()}
    return [opened_sae(*named[each.sae], each.sae) for each in tap.resident_saes]


def resident_sae(sae: Sae) -> ResidentSae:
    """Return what a plan says of a resident SAE."""
    return ResidentSae(sae=sae.digest, num_features=sae.num_features, numbers=_numbers(sae))


def sae_tables(sae: Sae, part: slice, device: torch.device) -> SaeTables:
    """Return its weights on a device, float32.

    Args:
        device: where the tensors lie.
        sae: the SAE.
        part: the elements of D that this rank has.
    """

    def there(array: FloatArray | None) -> Tensor | None:
        return None if array is None else _tensor(array).to(device)

    is_pursuit = sae.form == "pursuit"
    joint = sae.polynomial
    has_cube = joint is not None and joint.third_MC.shape[1] > 0
    return SaeTables(
        facts=_facts(sae),
        decoder_bias_D=_tensor(sae.decoder_bias_D[part]).to(device),
        encoder_DM=None if is_pursuit else there(_encoder_DM(sae, part)),
        encoder_bias_M=None if is_pursuit else there(sae.encoder_bias_M),
        weight_M=there(sae.decoder_MD.row_lengths()) if _compares_lengths(sae) else None,
        threshold_M=there(sae.threshold_M),
        decoder_MD=there(_decoder_MD(sae, part)) if is_pursuit else None,
        first_MQ=None if joint is None else there(joint.first_MQ),
        second_MQ=None if joint is None else there(joint.second_MQ),
        square_DQ=None if joint is None else there(joint.square_DQ[part]),
        third_MC=there(joint.third_MC) if joint is not None and has_cube else None,
        cube_DC=there(joint.cube_DC[part]) if joint is not None and has_cube else None,
    )


def _facts(sae: Sae) -> SaeTraits:
    return SaeTraits(
        sae=sae.digest,
        form=sae.form,
        num_features=sae.num_features,
        statistic=statistic_of(sae),
        is_without_mean=is_without_mean(sae),
        input_scale=sae.input_scale,
        subtracts_decoder_bias=sae.subtracts_decoder_bias,
        codes_hold_length=sae.decoder_norms == "scale",
        k=sae.k or 0,
        pursuit=sae.pursuit,
    )


def _compares_lengths(sae: Sae) -> bool:
    return sae.form != "pursuit" and (sae.decoder_norms != "ignored" or sae.form == "top_afa")


def _numbers(sae: Sae) -> int:
    numbers = sae.width * sae.num_features + sae.width
    if sae.form != "pursuit":
        numbers += sae.num_features * (1 + _compares_lengths(sae) + (sae.threshold_M is not None))
    return numbers + sum(each.size for each in sae.polynomial or ())


def _encoder_DM(sae: Sae, part: slice) -> FloatArray:
    """Widen the encoder part by part: in float64 the whole may be too large for the host."""
    encoder_DM = np.empty((len(range(*part.indices(sae.width))), sae.num_features), np.float32)
    for start in range(0, sae.num_features, PART):
        columns = slice(start, start + PART)
        encoder_DM[:, columns] = sae.encoder_DM.columns(columns)[part]
    return encoder_DM


def _decoder_MD(sae: Sae, part: slice) -> FloatArray:
    decoder_MD = np.empty((sae.num_features, len(range(*part.indices(sae.width)))), np.float32)
    for start in range(0, sae.num_features, PART):
        rows = slice(start, start + PART)
        decoder_MD[rows] = sae.decoder_MD.rows(rows)[:, part]
    return decoder_MD


def _tensor(array: FloatArray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))
