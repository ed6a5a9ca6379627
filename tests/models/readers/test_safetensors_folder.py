"""Hugging Face folders. Oracle: the safetensors library's own reader; broken folders must end in one clear line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_checkpoint

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.readers.safetensors_file import read_safetensors
from edgeskip.models.source import open_model


def _refused(folder: Path, message: str) -> None:
    with pytest.raises(EdgeSkipError, match=message) as caught:
        open_model(str(folder))
    assert "\n" not in str(caught.value)


@pytest.fixture
def llama(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "llama"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("sharded"), max_shard_size="200KB")


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "float64"])
def test_values_equal_the_safetensors_library(stored: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    values = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) * 1e3
    values[0, :4] = torch.tensor([0.0, -0.0, torch.inf, 1e-7])
    file = tmp_path / "x.safetensors"
    save_file({"a.weight": values.to(getattr(torch, stored)), "odd.weight": torch.ones(3)}, file)
    tensor = read_safetensors(file)["a.weight"]
    array = tensor.read()
    expected = load_file(file)["a.weight"].float().numpy()
    np.testing.assert_array_equal(array, expected)
    assert (array.dtype, array.shape, tensor.shape) == (np.float32, (7, 5), (7, 5))
    assert array.flags.c_contiguous


def test_shards_read_like_one_file(sharded: Path, tiny_llama: Path) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 2
    one, many = open_model(str(tiny_llama)), open_model(str(sharded))
    assert set(one.tensors) == set(many.tensors)
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(tensor.read(), many.tensors[name].read(), err_msg=name)


def test_missing_shard(sharded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded, tmp_path / "copy"))
    lost = sorted(folder.glob("*.safetensors"))[1]
    lost.unlink()
    _refused(folder, f"{lost.name} is missing, one of")


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "..\\x.safetensors", "model.bin"])
def test_index_may_not_leave_the_folder(name: str, sharded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded, tmp_path / "copy"))
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = name
    path.write_text(json.dumps(index))
    _refused(folder, "not a safetensors file in its own folder")


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}', "{"])
def test_damaged_index(content: str, sharded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded, tmp_path / "copy"))
    (folder / "model.safetensors.index.json").write_text(content)
    _refused(folder, "fetch the model again")


def test_index_that_names_the_wrong_shard(sharded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded, tmp_path / "copy"))
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    mapping = index["weight_map"]
    mapping["model.norm.weight"] = next(file for file in mapping.values() if file != mapping["model.norm.weight"])
    path.write_text(json.dumps(index))
    _refused(folder, r"lacks 'model\.norm\.weight', which model\.safetensors\.index\.json says it holds")


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_truncated_weights(keep: int, llama: Path) -> None:
    file = llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    _refused(llama, "damaged or truncated")


def test_garbage_weights(llama: Path) -> None:
    (llama / "model.safetensors").write_bytes(b"\x10" + b"\0" * 7 + b'{"a": "not it"}  ')
    _refused(llama, "damaged or truncated")


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": ', "\udcff"])
def test_damaged_config(content: str, llama: Path) -> None:
    (llama / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    _refused(llama, r"config\.json is (damaged \(not|not a) JSON")


def test_pickles_are_never_read(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    _refused(llama, "as a pickle, which can run code")


def test_no_weights(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    _refused(llama, r"has neither model\.safetensors nor model\.safetensors\.index\.json")


def test_quantized_storage_is_named(llama: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(llama / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(weights, llama / "model.safetensors")
    _refused(llama, r"quantized .*stored as F8_E4M3")


def test_buffers_of_old_checkpoints_are_ignored(llama: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(llama / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(weights, llama / "model.safetensors")
    open_model(str(llama))


def test_tied_head_that_is_stored_again(llama: Path) -> None:
    """transformers 4 ties and 5 unties where the stored head differs: neither may be chosen silently."""
    from safetensors.torch import load_file, save_file

    weights = load_file(llama / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, llama / "model.safetensors")
    assert open_model(str(llama)).decoder.head is None
    weights["lm_head.weight"][3, 5] += 1
    save_file(weights, llama / "model.safetensors")
    _refused(llama, r"'lm_head\.weight' is not the embedding")


def test_folder_without_config(tmp_path: Path) -> None:
    _refused(tmp_path, r"has no config\.json: it is not a model folder")
    (tmp_path / "x.Q4_0.gguf").touch()
    _refused(tmp_path, r"name the GGUF file itself, e\.g\. .*x\.Q4_0\.gguf")


def test_completed_config_names_no_code(llama: Path) -> None:
    path = llama / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModel": "evil.Model"}}))
    config = open_model(str(llama)).config
    assert "auto_map" not in config
    assert config["rope_theta"] == 10000.0
    assert config["rope_scaling"] is None


def test_special_ids_come_from_the_config_where_generation_config_is_silent(llama: Path) -> None:
    (llama / "generation_config.json").write_text('{"eos_token_id": [1, 5], "temperature": 0.6, "pad_token_id": null}')
    assert open_model(str(llama)).generation_config == {
        "temperature": 0.6,
        "bos_token_id": 0,
        "eos_token_id": [1, 5],
        "pad_token_id": 1,
    }
