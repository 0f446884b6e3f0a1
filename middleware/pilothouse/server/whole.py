"""One answer that is not streamed: every choice settled, shaped and marked."""

from __future__ import annotations

from typing import Any

from pilothouse.server.admission import Admitted
from pilothouse.server.family import Family, blocked_body
from pilothouse.server.ledger import Entry
from pilothouse.server.settlement import Deed, Settler


def shape_whole(
    body: dict[str, Any], family: Family, admitted: Admitted, entry: Entry, settler: Settler
) -> list[Deed]:
    """Shape a body in place and say what was done to each choice."""
    deeds: list[Deed] = []
    expected = list(range(admitted.num_choices))
    # Another number of choices means that what an index stands for is not known either.
    lost = admitted.exposure.ends and expected != sorted(
        choice["index"] for choice in body["choices"]
    )
    for choice in body["choices"]:
        if lost:
            settlement = settler.unaccounted(admitted)
        else:
            key = family.key(choice["index"], admitted)
            settlement = settler.settle(admitted, entry, key)
        if settlement.ending is not None:
            family.end_whole(choice, settlement.ending)
            blocked_body(body)
        choice["pilothouse"] = settlement.visible
        deeds.append(settlement.deed)
    if admitted.asked_model is not None:
        body["model"] = admitted.asked_model
    body["pilothouse"] = {
        "decision_id": admitted.decision_id,
        "revision": admitted.sealed.revision,
    }
    return deeds
