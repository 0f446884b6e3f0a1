"""What libraries' own tables of published SAEs say beside the files; facts of SAELens 6.54.

A release is known by the name of its repository, which the path of a hub's copy or of a clone has,
or by what only its files say. The tables correct fields (`config_overrides`) and give the factor by
which inputs were scaled in training (`norm_scaling_factor`). The library looks both up when it
fetches an SAE by its release's name, so that they are in no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

NO_SCALES: Mapping[str, float] = MappingProxyType({})


class Release(NamedTuple):
    """One published set: its name in SAELens, its repository, and what the table adds."""

    name: str
    repo: str
    is_centred: bool | None = None
    normalise: str | None = None
    input_scales: Mapping[str, float] = NO_SCALES
    """The factors, by the end of the folder's path."""


class Listed(NamedTuple):
    """The factor of a published SAE's inputs, and where it is from."""

    scale: float
    note: str


_R1_SERIES: Mapping[str, tuple[float, ...]] = {
    "800M-Slimpajama-0-OpenR1-Math-220k": (
        53.52995402,
        37.07457227,
        26.80127195,
        20.25878584,
        16.35620324,
        13.77273091,
        11.80264262,
        10.34562208,
        9.527112198,
        8.722802554,
        8.187374613,
        7.681409438,
        7.011470965,
        6.507851835,
        6.075830839,
        5.529329507,
        5.041257657,
        4.543060255,
        4.136073768,
        3.818677844,
        3.499766209,
        3.114875162,
        2.858677637,
        2.614362023,
        2.406593266,
        2.218554051,
        2.038628827,
        1.86640549,
        1.691474301,
        1.530389056,
        1.33786422,
        1.096302573,
    ),
    "400M-Slimpajama-400M-OpenR1-Math-220k": (
        53.97673033,
        36.76995793,
        26.86329549,
        20.47352236,
        16.49143388,
        13.90252921,
        11.95918589,
        10.45468508,
        9.625849753,
        8.705443147,
        8.088498908,
        7.4495784,
        6.801449054,
        6.331711239,
        5.7028423,
        5.318041374,
        4.796393474,
        4.333554094,
        3.938683907,
        3.584045063,
        3.412285044,
        2.993018847,
        2.754871784,
        2.52819427,
        2.326851187,
        2.101068655,
        1.936118938,
        1.778466008,
        1.663504954,
        1.448853213,
        1.157008764,
        1.041978,
    ),
    "0-Slimpajama-800M-OpenR1-Math-220k": (
        54.30879109,
        36.49473031,
        26.96126387,
        20.522102,
        16.67733544,
        14.06750504,
        12.0343387,
        10.49566282,
        9.683004157,
        8.679730501,
        7.988383972,
        7.237531144,
        6.69444885,
        6.048985807,
        5.493592992,
        4.970860531,
        4.541887866,
        4.111292885,
        3.731900947,
        3.446421844,
        3.161416331,
        2.860026055,
        2.636157171,
        2.4287398,
        2.240597877,
        2.034659099,
        1.843005463,
        1.655442326,
        1.477070443,
        1.336154324,
        1.138745421,
        0.926395749,
    ),
}
"""The factors, by series and layer."""
_MLP_TM = (
    1.049317316,
    2.369398401,
    1.641193498,
    1.895852216,
    1.816734787,
    1.550234472,
    1.323774281,
    1.104290511,
    0.9123762783,
    0.6955335635,
    0.3619728927,
    0.2851548653,
)
"""The factors, by layer."""

RES_JB = Release("gpt2-small-res-jb", "jbloom/GPT2-Small-SAEs-Reformatted", is_centred=True)
RELEASES = (
    RES_JB,
    Release(
        "gpt2-small-res-jb-feature-splitting",
        "jbloom/GPT2-Small-Feature-Splitting-Experiment-Layer-8",
        is_centred=True,
    ),
    Release(
        "gpt2-small-mlp-tm",
        "tommmcgrath/gpt2-small-mlp-out-saes",
        is_centred=True,
        input_scales={
            f"blocks.{layer}.hook_mlp_out_24576": each for layer, each in enumerate(_MLP_TM)
        },
    ),
    Release(
        "gemma-2b-res-jb",
        "jbloom/Gemma-2b-Residual-Stream-SAEs",
        input_scales={"gemma_2b_blocks.12.hook_resid_post_16384": 0.21381938399317255},
    ),
    Release(
        "mistral-7b-res-wg",
        "JoshEngels/Mistral-7B-Residual-Stream-SAEs",
        normalise="constant_norm_rescale",
    ),
    Release(
        "llama_scope_r1_distill",
        "fnlp/Llama-Scope-R1-Distill",
        input_scales={
            f"{series}/L{layer}R": each
            for series, scales in _R1_SERIES.items()
            for layer, each in enumerate(scales)
        },
    ),
)
PARTS = 8
"""Parts of a path, from its end, in which a repository's name is looked for."""


def release_of(folder: Path) -> Release | None:
    """Return the release whose repository's name is in a folder's path."""
    parts = [each.casefold() for each in folder.absolute().parts[-PARTS:]]
    for release in RELEASES:
        repo = release.repo.casefold()
        names = {repo.partition("/")[2], f"models--{repo.replace('/', '--')}"}
        if names.intersection(parts):
            return release
    return None


def release_told_by(raw: Mapping[str, Any]) -> Release | None:
    """Return the release that only its files' fields tell.

    gpt2-small-res-jb was trained before SAELens had versions, and is copied under many names.
    """
    hook = str(raw.get("hook_point") or "")
    is_it = (
        raw.get("model_name") == "gpt2-small"
        and hook.startswith("blocks.")
        and hook.endswith((".hook_resid_pre", "11.hook_resid_post"))
        and raw.get("l1_coefficient") == 8e-05
        and not raw.get("sae_lens_version")
        and raw.get("model_from_pretrained_kwargs") is None
    )
    return RES_JB if is_it else None


def input_scale_of(folder: Path) -> Listed | None:
    """Return the factor that scaled a published SAE's inputs, where only a table says it."""
    release = release_of(folder)
    if release is None:
        return None
    end = "/".join(folder.absolute().parts[-2:])
    for name, scale in release.input_scales.items():
        # Folders of one release carry a version of an upload behind their name.
        if end.partition(":")[0].endswith(name):
            note = f"its inputs' scale {scale:.6g} is that of SAELens' table for {release.name}"
            return Listed(scale, note)
    return None
