"""The bad files, by what is bad about them."""

from __future__ import annotations

import pickle
import struct
import zipfile

import numpy as np
import torch

from tests.support.artifacts import hostile_files as make
from tests.support.artifacts import vector_files as writers
from tests.support.artifacts.hostile_files import (
    ANGULAR,
    AUSTEER,
    GGUF_KIND,
    LOREFT,
    NPY,
    REFUSAL,
    SAFE,
    SNMF,
    Hostile,
    gguf_head,
    gguf_tensor,
    gguf_text,
)
from tests.support.artifacts.vector_files import D, N, draw

GGUF = ("gguf",)
WORDS = gguf_head(3, 1, 1) + GGUF_KIND

CASES: dict[str, Hostile] = {
    "gguf of another kind": Hostile(
        make.raw(
            gguf_head(3, 0, 1)
            + gguf_text("general.architecture")
            + struct.pack("<I", 8)
            + gguf_text("llama")
        ),
        GGUF,
        ("general.architecture", "'llama'"),
    ),
    "gguf without magic": Hostile(make.raw(b"GGML" + bytes(64)), GGUF, ("magic",)),
    "gguf of a big-endian machine": Hostile(
        make.raw(b"GGUF" + struct.pack(">IQQ", 3, 0, 0)), GGUF, ("version", "little-endian")
    ),
    "gguf cut in its head": Hostile(make.cut(writers.write_gguf, 0.2), GGUF, ("bytes left",)),
    "gguf cut in its numbers": Hostile(make.cut(writers.write_gguf, 0.9), GGUF, ("direction.3",)),
    "gguf with endless tensors": Hostile(make.raw(gguf_head(3, 1 << 60)), GGUF, ("tensor_count",)),
    "gguf with endless fields": Hostile(
        make.raw(gguf_head(3, 0, 1 << 60)), GGUF, ("metadata_kv_count",)
    ),
    "gguf with an endless name": Hostile(
        make.raw(gguf_head(3, 0, 1) + struct.pack("<Q", 1 << 62)), GGUF, ("metadata key",)
    ),
    "gguf with an endless array": Hostile(
        make.raw(gguf_head(3, 0, 1) + gguf_text("a") + struct.pack("<IIQ", 9, 8, 1 << 62)),
        GGUF,
        (": a: ", "a flat array"),
    ),
    "gguf with a huge tensor": Hostile(
        make.raw(WORDS + gguf_tensor("direction.1", (1 << 62,))), GGUF, ("direction.1", "at most")
    ),
    "gguf with an offset beyond its end": Hostile(
        make.raw(WORDS + gguf_tensor("direction.1", (8,), offset=1 << 62) + bytes(64)),
        GGUF,
        ("direction.1", "32 bytes"),
    ),
    "gguf that is quantised": Hostile(
        make.raw(WORDS + gguf_tensor("direction.1", (32,), kind=8) + bytes(64)),
        GGUF,
        ("direction.1", "not quantised"),
    ),
    "gguf with a matrix": Hostile(
        make.raw(WORDS + gguf_tensor("direction.1", (4, 2)) + bytes(64)),
        GGUF,
        ("direction.1", "1 dimensions"),
    ),
    "gguf with a tensor of another name": Hostile(
        make.raw(WORDS + gguf_tensor("direction.-1", (8,)) + bytes(64)), GGUF, ("direction.-1",)
    ),
    "gguf of zeros": Hostile(
        make.raw(WORDS + gguf_tensor("direction.1", (8,)) + bytes(128)),
        (*GGUF, "--norms", "4"),
        ("direction.1", "zeros"),
    ),
    "gguf without a layer that is asked for": Hostile(
        writers.write_gguf, (*GGUF, "--layer", "5"), ("--layer", "got 5", "[2, 3]")
    ),
    "a link": Hostile(make.linked, GGUF, ("a symbolic link",)),
    "a link in a folder": Hostile(make.linked_inside, REFUSAL, ("direction.pt", "symbolic link")),
    "a pipe": Hostile(make.fifo, GGUF, ("no plain file",)),
    "an empty file": Hostile(make.raw(b""), GGUF, ("0 bytes",)),
    "nothing": Hostile(lambda _: None, GGUF, ("No such file",)),
    "gguf of another model": Hostile(
        lambda file: writers.write_gguf(file, hint="gemma2"),
        (*GGUF, "--norms", "4,5", "CONFIG"),
        ("model type", "'gemma2'", "'llama'"),
    ),
    "gguf of a deeper model": Hostile(
        lambda file: writers.write_gguf(file, layers=(2, 6)),
        (*GGUF, "--norms", "4,5", "CONFIG"),
        ("direction.6", "below 6"),
    ),
    "gguf of a model of another width": Hostile(
        writers.write_gguf, (*GGUF, "--norms", "4,5", "--d-model", "16"), ("width 8", "want 16")
    ),
    "svec that is no JSON": Hostile(make.raw(b"{"), ("svec",), ("content", "JSON")),
    "svec with NaN": Hostile(make.svec_text('{"2": [NaN, 1]}'), ("svec",), ("NaN",)),
    "svec beyond float": Hostile(
        make.svec_text('{"2": [1e999, 1]}'), ("svec",), ("directions.2", "infinite")
    ),
    "svec beyond float32": Hostile(
        make.svec_text('{"2": [1e300, 1]}'), ("svec",), ("directions.2", "infinite in float32")
    ),
    "svec with a layer twice": Hostile(
        make.svec_text('{"2": [1.0], "2": [2.0]}'), ("svec",), ("each field once",)
    ),
    "svec with a layer under two names": Hostile(
        make.svec_text('{"2": [1.0], "02": [2.0]}'), ("svec",), ("directions", "each layer once")
    ),
    "svec with a path for a layer": Hostile(
        make.svec_text('{"../../2": [1.0]}'), ("svec",), ("directions", "'../../2'")
    ),
    "svec with words": Hostile(
        make.svec_text('{"2": ["a", 1]}'), ("svec",), ("directions.2", "numbers only")
    ),
    "svec with truths": Hostile(
        make.svec_text('{"2": [true, 1]}'), ("svec",), ("directions.2", "numbers only")
    ),
    "svec with layers of two widths": Hostile(
        make.svec_text('{"2": [1.0, 2.0], "3": [1.0]}'),
        ("svec", "--norms", "4,5"),
        ("directions.3", "shape [1]", "[2]"),
    ),
    "svec that is nested without end": Hostile(
        make.raw(b"[" * 200000), ("svec",), ("content", "JSON")
    ),
    "svec without directions": Hostile(make.svec(directions=[1.0]), ("svec",), ("directions",)),
    "npy of objects": Hostile(writers.write_angular, NPY, ("dtype", "no objects")),
    "npy with a huge shape": Hostile(
        make.raw(make.npy_of_shape("(1099511627776,)")), NPY, ("shape", "at most")
    ),
    "npy with a negative shape": Hostile(make.raw(make.npy_of_shape("(-8, -1)")), NPY, ("shape",)),
    "npy that is cut": Hostile(make.raw(make.npy_of_shape("(1, 16)")), NPY, ("32 bytes", "64")),
    "npy that is longer": Hostile(make.raw(make.npy_of_shape("(1, 4)")), NPY, ("32 bytes", "16")),
    "npy of whole numbers": Hostile(
        lambda file: np.save(file.open("wb"), np.arange(8)), NPY, ("dtype", "int64")
    ),
    "npy with more rows than layers": Hostile(writers.write_npy, NPY, ("2 rows", "1 rows")),
    "npy that is a zip": Hostile(
        lambda file: np.savez(file.open("wb"), a=draw(D, seed=1)), NPY, ("header", ".npy")
    ),
    "safetensors with NaN": Hostile(make.safe(a=make.poisoned(3, np.nan)), SAFE, (": a: ", "NaN")),
    "safetensors with an infinity": Hostile(
        make.safe(a=make.poisoned(0, -np.inf)), SAFE, (": a: ", "infinite")
    ),
    "safetensors without the tensor": Hostile(make.safe(b=draw(D, seed=1)), SAFE, ("['b']",)),
    "safetensors with a head without end": Hostile(
        make.raw(struct.pack("<Q", 1 << 62) + b"{}"), SAFE, ("content", "safetensors")
    ),
    "safetensors that is cut": Hostile(
        make.cut(writers.write_safetensors, 0.9), SAFE, ("content", "safetensors")
    ),
    "safetensors that is a pickle": Hostile(make.saved({"a": 1}), SAFE, ("content",)),
    "safetensors of whole numbers": Hostile(
        make.safe(a=np.arange(8)), SAFE, (": a: ", "dtype I64")
    ),
    "refusal direction that calls": Hostile(
        lambda file: torch.save(make.Bomb(file.with_name("ran")), file),
        (*REFUSAL, "--layer", "3"),
        ("mkdir", "safetensors"),
    ),
    "refusal direction by a plain pickle that calls": Hostile(
        lambda file: file.write_bytes(pickle.dumps(make.Bomb(file.with_name("ran")))),
        (*REFUSAL, "--layer", "3"),
        ("content", "weights-only"),
    ),
    "refusal direction that is cut": Hostile(
        make.cut(make.saved(torch.ones(512)), 0.6), (*REFUSAL, "--layer", "3"), ("archive",)
    ),
    "refusal direction of text": Hostile(
        make.raw(b"not a tensor"), (*REFUSAL, "--layer", "3"), ("content", "torch.save")
    ),
    "refusal direction without a layer": Hostile(
        make.saved(torch.ones(D)), REFUSAL, ("direction_metadata.json", "--layer")
    ),
    "refusal direction of another layer": Hostile(
        writers.write_refusal, (*REFUSAL, "--layer", "4"), ("layer: got 3",)
    ),
    "refusal direction with a word for its layer": Hostile(
        make.metadata('{"pos": -1, "layer": "../3"}'), REFUSAL, ("metadata.json", "layer")
    ),
    "refusal direction at a layer below 0": Hostile(
        make.metadata('{"pos": -1, "layer": -1}'), REFUSAL, ("metadata.json", "layer")
    ),
    "refusal direction of whole numbers": Hostile(
        make.saved(torch.arange(8)), (*REFUSAL, "--layer", "3"), ("direction", "int64")
    ),
    "refusal direction that is sparse": Hostile(
        make.saved(torch.ones(8).to_sparse()), (*REFUSAL, "--layer", "3"), ("dense tensor",)
    ),
    "a view of a trillion numbers": Hostile(
        make.saved({"F": make.HugeView(), "layer": 2, "mode": "mlp_intermediate"}),
        SNMF,
        ("F", "1099511627776", "at most"),
    ),
    "a tensor beyond its storage": Hostile(
        make.saved({"F": make.OutOfStorage(), "layer": 2, "mode": "mlp_intermediate"}),
        SNMF,
        ("content", "storage"),
    ),
    "a zip bomb": Hostile(make.rezipped(zipfile.ZIP_DEFLATED), SNMF, ("compressed",)),
    "an archive that climbs out": Hostile(
        make.rezipped(zipfile.ZIP_STORED, lambda name: "../" + name), SNMF, ("archive", "'../")
    ),
    "snmf with its tokenizer": Hostile(
        lambda file: torch.save({"F": torch.ones(N, 4), "tokenizer": Hostile}, file),
        SNMF,
        ("content", "torch.save({name: tensor"),
    ),
    "snmf of another place": Hostile(
        lambda file: writers.write_snmf(file, mode="mlp_out"), SNMF, ("mode", "'mlp_out'")
    ),
    "snmf with fewer features": Hostile(
        writers.write_snmf, ("snmf", "--feature", "4", "--d-model", "8"), ("F", "4 features")
    ),
    "snmf without the stream's width": Hostile(
        writers.write_snmf, ("snmf", "--feature", "1", "--norms", "4"), ("d_model", "--d-model")
    ),
    "a steering vector of norms": Hostile(
        lambda file: writers.write_steering_vector(file, "input_layernorm"),
        ("steering-vectors",),
        ("layer_type", "'input_layernorm'"),
    ),
    "a steering vector with a layer that is no number": Hostile(
        make.saved({"layer_activations": {"a": torch.ones(8)}, "layer_type": "mlp"}),
        ("steering-vectors",),
        ("layer_activations", "'a'"),
    ),
    "a steering vector without layers": Hostile(
        make.saved({"layer_type": "mlp"}), ("steering-vectors",), ("layer_activations", "nothing")
    ),
    "loreft whose rotation is none": Hostile(
        make.loreft_with(rotate_layer=torch.ones(D, 3)), LOREFT, ("rotate_layer", "orthonormal")
    ),
    "loreft of another rank": Hostile(
        make.loreft_with(weight=torch.ones(2, D)), LOREFT, ("rotate_layer, weight, bias",)
    ),
    "loreft with NaN": Hostile(
        make.loreft_with(bias=torch.full((3,), torch.nan)), LOREFT, ("bias", "NaN")
    ),
    "loreft with two at a layer": Hostile(
        make.twice_in_a_folder, ("loreft",), ("#1.bin", "second intervention at layer 1")
    ),
    "austeer with lists of two lengths": Hostile(
        make.austeer_with("all_indices.pt", [(0, 1)]), AUSTEER, ("all_indices.pt", "1 entries")
    ),
    "austeer beyond the width": Hostile(
        make.austeer_with("all_indices.pt", [(0, 1 << 40)] * 5), AUSTEER, ("all_indices.pt",)
    ),
    "austeer below 0": Hostile(
        make.austeer_with("all_indices.pt", [(-2, -1)] * 5), AUSTEER, ("all_indices.pt", "-2")
    ),
    "austeer with NaN": Hostile(
        make.austeer_with("all_scores.pt", [float("nan")] * 5), AUSTEER, ("scores", "NaN")
    ),
    "act of two widths": Hostile(
        make.act_with(**{"net.b1": torch.ones(1, 3)}), ("act",), ("net.w1, net.b1", "[8, 3]")
    ),
    "act without its shift": Hostile(
        make.act_with(**{"net.b1": None}), ("act",), ("net.b1", "nothing")
    ),
    "act with quantiles that are not there": Hostile(
        make.act_with(quantiles_src="q_9"), ("act",), ("quantiles_dict_src", "'q_9'")
    ),
    "act of no module": Hostile(make.saved(writers.act_linear(1)), ("act",), ("modules", "none")),
    "angular that calls": Hostile(
        lambda file: make.angular_with(make.Bomb(file.with_name("ran")))(file),
        ANGULAR,
        ("it names", "mkdir"),
    ),
    "angular with a memo without end": Hostile(
        make.angular_with(b"\x80\x04}r\xff\xff\xff\xff."), ANGULAR, ("memo number",)
    ),
    "angular with a class of ours set": Hostile(
        make.angular_with(b"\x80\x04cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb."),
        ANGULAR,
        ("content",),
    ),
    "angular that is cut": Hostile(make.cut(writers.write_angular, 0.9), ANGULAR, ("content",)),
    "angular of one line": Hostile(
        make.one_plane(draw(D, seed=1), -2 * draw(D, seed=1)), ANGULAR, ("second_direction",)
    ),
    "angular of objects": Hostile(
        make.one_plane(np.array([[], 1], dtype=object), draw(D, seed=1)),
        ANGULAR,
        ("first_direction", "type O8"),
    ),
    "angular of two widths": Hostile(
        make.one_plane(draw(D, seed=1), draw(D + 1, seed=2)), ANGULAR, ("second_direction",)
    ),
}
