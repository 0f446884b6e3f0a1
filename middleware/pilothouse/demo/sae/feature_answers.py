"""Answers of the served engine under edits of an SAE's features, kept as all answers are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.cache import open_sae
from pilothouse.config import PilothouseConfig, SaeRef, Taps
from pilothouse.demo.answers import Answerer, Ask
from pilothouse.demo.result_cache import digest_of_parts

if TYPE_CHECKING:
    from pilothouse.llm import LLM

MAX_RANK: Final = 2
"""One feature at the prompt's last token, and one in the answer."""


class FeatureAnswerer(Answerer):
    """An engine that one SAE can be loaded into, also when it has answered before.

    Args:
        model: its folder; its name is what manifests call the model.
        layer: of the SAE.
        store: the file of answers, made where it is not there.
    """

    def __init__(self, model: Path, layer: int, store: Path) -> None:
        super().__init__(model, (layer,), store)
        self._taps = Taps(resid_post=(layer,), operators=("add", "feature"))
        self._refs: dict[str, SaeRef] = {}
        self._sae: Sae | None = None
        self._served: Sae | None = None

    def have_sae(self, name: str, ref: SaeRef) -> Sae:
        """Edit with this SAE from now on, and return it.

        Raises:
            ArtefactError: it cannot be read.
        """
        self._refs = {name: ref}
        self._sae = open_sae(name, ref)
        return self._sae

    def _engine(self) -> LLM:
        llm = super()._engine()
        if self._served is not self._sae:
            llm.reload(self._config({}))
            self._served = self._sae
        return llm

    def _config(self, folders: Mapping[str, Path]) -> PilothouseConfig:
        given = super()._config(folders)
        limits = given.limits.model_copy(update={"max_rank": MAX_RANK})
        return given.model_copy(
            update={"taps": self._taps, "saes": dict(self._refs), "limits": limits}
        )

    def _key(self, ask: Ask) -> str:
        """Digest what settles an answer: the SAE counts by its numbers, not by its name."""
        if not ask.terms or self._sae is None:
            return super()._key(ask)
        terms = [
            each.model_dump(mode="json", exclude_none=True) | {"sae": self._sae.digest}
            for each in ask.terms
        ]
        return digest_of_parts(
            "answer", self._digest, self.ids_of(ask.question), terms, ask.max_tokens
        )
