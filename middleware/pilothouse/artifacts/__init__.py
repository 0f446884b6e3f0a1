"""Files of other libraries become artefacts of ours: `import_vector`, `import_sae`.

This is for offline use. A server reads artefacts alone, and nothing of this room.
"""

from __future__ import annotations

from pilothouse.artifacts.sae_import import ImportedSae, import_sae
from pilothouse.artifacts.vector_import import ImportedVector, import_vector

__all__ = ["ImportedSae", "ImportedVector", "import_sae", "import_vector"]
