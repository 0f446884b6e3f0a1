"""Artefacts: vectors, transforms, probes and SAEs in folders, and files of other libraries.

`import_vector` and `import_sae` make artefacts of other libraries' files. They are for offline use
and load torch, so they are imported when they are first asked for: a server reads artefacts alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilothouse.artifacts.importing.sae_import import ImportedSae, import_sae
    from pilothouse.artifacts.importing.vector_import import ImportedVector, import_vector

__all__ = ["ImportedSae", "ImportedVector", "import_sae", "import_vector"]


def __getattr__(name: str) -> Any:
    """Import what is public here when it is asked for.

    Raises:
        AttributeError: nothing of that name is here.
    """
    if name in ("ImportedSae", "import_sae"):
        from pilothouse.artifacts.importing import sae_import

        return getattr(sae_import, name)
    if name in ("ImportedVector", "import_vector"):
        from pilothouse.artifacts.importing import vector_import

        return getattr(vector_import, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
