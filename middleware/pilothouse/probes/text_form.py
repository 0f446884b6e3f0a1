"""How texts are written: alike in case and final punctuation, or as they are."""

from __future__ import annotations

import unicodedata

from pilothouse.probes.report import Form

FINAL_MARKS = ".?!,;:…\"'`)"


def alike(text: str) -> str:
    """Return the text in lower case, its white space single, without marks at its end.

    Sets differ in how they are written, and a probe that sees it has found nothing else.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).lower().split())
    return plain.rstrip(FINAL_MARKS + " ") or plain


def in_form(text: str, form: Form) -> str:
    """Return the text in a form."""
    return alike(text) if form == "alike" else text
