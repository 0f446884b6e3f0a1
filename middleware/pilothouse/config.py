"""pilothouse.yaml: what is loaded, what is allowed. Closed and frozen; paths are made absolute."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from pilothouse.errors import ConfigError, sendable
from pilothouse.limits import Limits
from pilothouse.term import NamedReserved, SteerTerm
from pilothouse.trusted_proxies import TrustedProxies
from pilothouse.types import Site, Tap
from pilothouse.validation_errors import FileError, Source, validation_errors
from pilothouse.yaml_document import ConfigComposer, parse_document

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$"
"""What an artefact may be called."""
Name = Annotated[str, Field(pattern=NAME)]
ProfileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-/]{0,63}:[A-Za-z0-9_.\-]+$")]


Layers = tuple[Annotated[int, Field(ge=0)], ...]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


HUB = "hf://"
PART = r"[A-Za-z0-9_][A-Za-z0-9_.+=\-]{0,95}"
HUB_PLACE = re.compile(
    rf"hf://({PART}/{PART})(?:@([A-Za-z0-9_][A-Za-z0-9_.\-]{{0,95}}))?((?:/{PART})*)/?"
)


class HubPlace(_Closed):
    """A folder or file of a model repository on the Hugging Face hub, at a revision."""

    repo: str = Field(pattern=rf"^{PART}/{PART}$")
    revision: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,95}$")
    inside: str = Field(default="", pattern=rf"^(?:{PART}(?:/{PART})*)?$")
    """The path in the repository; empty for its top."""

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision}"
        return f"{HUB}{self.repo}{at}{'/' if self.inside else ''}{self.inside}"


def parse_place(text: str) -> Path | HubPlace:
    """Return a path, or a place on the hub where the text begins with hf://.

    Raises:
        ValueError: it begins so and goes on otherwise.
    """
    if not text.startswith(HUB):
        return Path(text)
    found = HUB_PLACE.fullmatch(text)
    if found is None:
        raise ValueError(f"got {text!r}, want hf://OWNER/NAME@COMMIT/FOLDER, without '..'")
    return HubPlace(repo=found[1], revision=found[2], inside=found[3].strip("/"))


def _place(given: Any) -> Any:
    # Plain data: as JSON, a plan's configuration takes no objects.
    is_hub = isinstance(given, str) and given.startswith(HUB)
    return parse_place(given).model_dump() if is_hub else given  # type: ignore[union-attr]


def _on_a_disk(path: Any) -> Any:
    """Refuse what no file system can have; what looks for it would say so in its own way."""
    text = str(path) if isinstance(path, str | Path) else ""
    if "\0" in text or text != sendable(text):
        raise ValueError(f"got {text!a}, want a path without NUL, in valid Unicode")
    return path


FilePath = Annotated[Path, BeforeValidator(_on_a_disk)]
Place = Annotated[Path | HubPlace, BeforeValidator(_place), BeforeValidator(_on_a_disk)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ArtefactRef(_Closed):
    """Where a vector or probe lies: a folder with `manifest.json` and `weights.safetensors`.

    `digest` is compared with the artefact's; what comes from the hub must have one.
    """

    path: Place
    digest: Digest | None = None


class SaeRef(_Closed):
    """Where an SAE lies, in the layout of what made it, and what its files leave open."""

    path: Place
    digest: Digest | None = None
    format: str | None = None
    """A name of `model.sae.formats`; only needed where the files' names do not tell."""
    model: str | None = None
    layer: int | None = Field(default=None, ge=0)
    site: Site | None = None
    average_norm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Mean length of what the tap carries: what bounds on edits are shares of."""
    is_centred: bool | None = None
    """Whether it knows a stream without its mean, where the files do not say it."""


class Profile(_Closed):
    """Named steering, picked as a model name.

    One that steers nothing is a name for policies to match.
    """

    steer: tuple[SteerTerm, ...]


class Taps(_Closed):
    """Taps to have in the graph beside those the loaded artefacts need: layers by site."""

    embed: Layers = ()
    resid_pre: Layers = ()
    attn_heads: Layers = ()
    attn_out: Layers = ()
    resid_mid: Layers = ()
    mlp_neurons: Layers = ()
    mlp_out: Layers = ()
    resid_post: Layers = ()
    operators: tuple[NamedReserved, ...] = ("add",)
    """What clients may do there; profiles and policies have what they name in any case."""
    reserve_rows: int = Field(default=0, ge=0, le=1024)

    def reserved(self) -> tuple[Tap, ...]:
        """Return every tap that is asked for."""
        return tuple(
            Tap(layer, site) for site, layers in self.by_site().items() for layer in layers
        )

    def by_site(self) -> dict[Site, tuple[int, ...]]:
        """Return the layers of each site that has any."""
        asked = {site: getattr(self, site, ()) for site in get_args(Site)}
        return {site: layers for site, layers in asked.items() if layers}


class Auth(_Closed):
    """Who may do what. Client steering and scores are off unless the demo turns them on."""

    trusted_proxies: TrustedProxies = TrustedProxies()
    client_steering: bool = False
    client_scores: bool = False


class Gate(_Closed):
    """Routes that are neither governed nor known to be harmless."""

    unknown_routes: Literal["deny", "refuse_start"] = "deny"
    allow: tuple[str, ...] = ()
    checks: bool = True
    """Serve the routes that score given texts (`/pilothouse/v1/check` and its kin)."""


class PilothouseConfig(_Closed):
    """The whole file."""

    version: Literal[1]
    model_id: str | None = None
    """The name under which artefacts know the served model; by default its own or its folder's."""
    vectors: dict[Name, ArtefactRef] = {}
    saes: dict[Name, SaeRef] = {}
    probes: dict[Name, ArtefactRef] = {}
    policies: tuple[FilePath, ...] = ()
    profiles: dict[ProfileName, Profile] = {}
    taps: Taps = Taps()
    limits: Limits = Limits()
    auth: Auth = Auth()
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _profiles_name_what_is_loaded(self) -> PilothouseConfig:
        for profile_name, profile in self.profiles.items():
            for term in profile.steer:
                section = "vectors" if term.sae is None else "saes"
                loaded = getattr(self, section)
                if term.name not in loaded:
                    raise ValueError(
                        f"profile {profile_name!r} steers with {term.name!r}, which is not under "
                        f"{section}; loaded are {sorted(loaded)}"
                    )
        return self

    @model_validator(mode="after")
    def _names_are_of_one_thing(self) -> PilothouseConfig:
        both = sorted(self.vectors.keys() & self.saes.keys())
        if both:
            raise ValueError(
                f"{both[0]!r} is under vectors and under saes, which metrics could not tell "
                "apart: rename one"
            )
        return self


def load_config(path: Path) -> PilothouseConfig:
    """Read the configuration in a YAML file, its paths resolved against the file's folder.

    Raises:
        ConfigError: unreadable, not YAML, unknown field or bad value; names file, line and field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{str(path)!a}: cannot be read: {error}") from error
    raw, source = parse_document(text, str(path), ConfigComposer)
    return parse_config(raw, folder=path.parent, origin=str(path), source=source)


def parse_config(
    raw: dict[str, Any], *, folder: Path, origin: str, source: Source | None = None
) -> PilothouseConfig:
    """Validate a configuration that was read from `origin`.

    Args:
        raw: the file's mapping.
        folder: what relative paths are taken from.
        origin: what errors name.
        source: the line of each field, where the mapping comes from a file.

    Raises:
        ConfigError: unknown field or bad value, one line for each.
    """
    try:
        config = PilothouseConfig.model_validate(raw)
    except ValidationError as error:
        place = source or Source(origin)
        problems = validation_errors(error.errors(), PilothouseConfig, place)
        raise FileError(sorted(problems)) from error
    return config.model_copy(
        update={
            "vectors": _resolved(config.vectors, folder),
            "saes": {
                name: ref.model_copy(update={"path": _at(folder, ref.path)})
                for name, ref in config.saes.items()
            },
            "probes": _resolved(config.probes, folder),
            "policies": tuple(folder / each for each in config.policies),
        }
    )


def _resolved(refs: dict[str, ArtefactRef], folder: Path) -> dict[str, ArtefactRef]:
    return {
        name: ref.model_copy(update={"path": _at(folder, ref.path)}) for name, ref in refs.items()
    }


def _at(folder: Path, place: Path | HubPlace) -> Path | HubPlace:
    return folder / place if isinstance(place, Path) else place
