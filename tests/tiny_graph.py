"""A one-layer artifact made by hand with onnx.helper, so that the runtime's tests need no exporter; and its oracle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.manifest import GraphRecord, Manifest, PlanSummary
from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.core.files import sha256_of
from edgeskip.profiles.schema import ModelRecord

VOCAB, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 260, 32, 4, 2, 8, 600
TEMPLATE = "{% for message in messages %}<|start|>{{ message.content }}<|end|>{% endfor %}"


@dataclass(frozen=True)
class TinyArtifact:
    """The folder, its manifest and the weights in it."""

    folder: Path
    manifest: Manifest
    weights: dict[str, NDArray[np.float32]]

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """Oracle: the `count` tokens that greedy decoding gives after `prompt`."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.logits(np.array(tokens))[-1].argmax()))
        return tokens[len(prompt) :]

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Oracle: the same layer in numpy, causal attention over all tokens at once; float32 [n, VOCAB]."""
        w, n = self.weights, len(tokens)
        x = w["embed"][tokens]
        query = (x @ w["q"]).reshape(n, HEADS, HEAD_DIM)
        key = np.repeat((x @ w["k"]).reshape(n, KV_HEADS, HEAD_DIM), HEADS // KV_HEADS, axis=1)
        value = np.repeat((x @ w["v"]).reshape(n, KV_HEADS, HEAD_DIM), HEADS // KV_HEADS, axis=1)
        scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(HEAD_DIM)
        scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weights, value).reshape(n, HIDDEN)
        return ((x + mixed @ w["o"]) @ w["head"]).astype(np.float32)


def build_tiny_artifact(folder: Path, *, data_location: str = "model.onnx.data") -> TinyArtifact:
    """Writes a complete artifact folder; its tokenizer has a token for each byte and three special ones."""
    from onnx import TensorProto, helper

    rng = np.random.default_rng(7)
    kv_width = KV_HEADS * HEAD_DIM
    shapes = {
        "embed": (VOCAB, HIDDEN),
        "q": (HIDDEN, HIDDEN),
        "k": (HIDDEN, kv_width),
        "v": (HIDDEN, kv_width),
        "o": (HIDDEN, HIDDEN),
        "head": (HIDDEN, VOCAB),
    }
    weights = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    initializers, blob = [], b""
    for name, array in weights.items():
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", data_location), ("offset", len(blob)), ("length", array.nbytes)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(text)
        blob += array.tobytes()
        initializers.append(tensor)
    (folder / "model.onnx.data").write_bytes(blob)

    def constant(name: str, value: NDArray[Any]) -> str:
        initializers.append(
            helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape, value.flatten())
        )
        return name

    axis1, one32 = constant("axis1", np.array([1])), constant("one32", np.array([1], np.int32))
    index1, end = constant("index1", np.array(1)), constant("end", np.array([1 << 40]))
    keep = constant("logits_to_keep", np.array([1]))
    past = ["past_key_values.0.key", "past_key_values.0.value"]
    present = ["present.0.key", "present.0.value"]
    node = helper.make_node
    nodes = [
        node("Gather", ["embed", "input_ids"], ["x"]),
        *(node("MatMul", ["x", name], [f"{name}_out"]) for name in ("q", "k", "v")),
        node("ReduceSum", ["attention_mask", axis1], ["valid"], keepdims=0),
        node("Cast", ["valid"], ["valid32"], to=TensorProto.INT32),
        node("Sub", ["valid32", one32], ["seqlens_k"]),
        node("Shape", ["attention_mask"], ["mask_shape"]),
        node("Gather", ["mask_shape", index1], ["total64"]),
        node("Cast", ["total64"], ["total"], to=TensorProto.INT32),
        node(
            "GroupQueryAttention",
            ["q_out", "k_out", "v_out", *past, "seqlens_k", "total"],
            ["mixed", *present],
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=KV_HEADS,
        ),
        node("MatMul", ["mixed", "o"], ["o_out"]),
        node("Add", ["x", "o_out"], ["y"]),
        node("Neg", [keep], ["start"]),
        node("Slice", ["y", "start", end, axis1], ["last"]),
        node("MatMul", ["last", "head"], ["logits"]),
    ]
    cache = [1, KV_HEADS, "capacity", HEAD_DIM]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, cache) for name in past]
    inputs += [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "n"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, [1, "total_length"]),
        helper.make_tensor_value_info("logits_to_keep", TensorProto.INT64, [1]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "k", VOCAB])]
    outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, cache) for name in present]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", inputs, outputs, initializers), opset_imports=opsets, ir_version=10
    )
    (folder / "model.onnx").write_bytes(model.SerializeToString())

    record = ModelRecord(
        source="tiny", name="tiny", family="llama", fingerprint="0" * 64, num_blocks=1, hidden_size=HIDDEN,
        vocab_size=VOCAB,
    )  # fmt: skip
    graph = GraphRecord(
        precision="fp32", kv_dtype="float32", logits_dtype="float32", num_kv_layers=1, num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM, vocab_size=VOCAB, context_length=CONTEXT,
    )  # fmt: skip
    manifest = Manifest(
        label="lossy-skip",
        model=record,
        graph=graph,
        plan=PlanSummary(method="explicit", compensation="none", skip=["ffn.0"], num_blocks=1),
        inputs={},
        files={"model.onnx": sha256_of(folder / "model.onnx")},
        versions={},
        created="2026-01-01T00:00:00Z",
        verification=None,
    )
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")
    _write_tokenizer(folder)
    return TinyArtifact(folder, manifest, weights)


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: index for index, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|start|>", "<|end|>", "<|other|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
