"""The tokenizer files of a Hugging Face folder, copied in the form that every version of transformers reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edgeskip.errors import EdgeSkipError
from edgeskip.exporters.families.json_file import read_json


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json (with the chat template) and special_tokens_map.json if any.

    A folder with only a slow tokenizer's files is converted by transformers; EdgeSkipError where it cannot.
    """
    if (source / "tokenizer.json").is_file():
        _check_tokenizer(source / "tokenizer.json")
        shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    else:
        _convert_slow(source, folder / "tokenizer.json")
    settings = read_json(source / "tokenizer_config.json") if (source / "tokenizer_config.json").is_file() else {}
    settings.pop("auto_map", None)
    template = source / "chat_template.jinja"
    if template.is_file():
        try:
            settings["chat_template"] = template.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise EdgeSkipError(f"{template} is not UTF-8 ({error}): fetch the model again") from None
    if settings.get("tokenizer_class") in (None, "TokenizersBackend"):
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 5's name for it is new; 4.57 lacks it
    if isinstance(settings.get("extra_special_tokens"), list):  # a mapping in 4.57, a list in 5.x
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    if (source / "special_tokens_map.json").is_file():
        shutil.copyfile(source / "special_tokens_map.json", folder / "special_tokens_map.json")


def _check_tokenizer(path: Path) -> None:
    """EdgeSkipError where the tokenizers library cannot read the file."""
    from tokenizers import Tokenizer

    read_json(path)
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        reason = str(error).strip().split("\n")[0]
        raise EdgeSkipError(f"{path} is no tokenizer ({reason}): fetch the model again") from None


def _convert_slow(source: Path, target: Path) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        tokenizer.backend_tokenizer.save(str(target))
    except Exception as error:  # many kinds: no files, no sentencepiece, a class that has no fast form
        reason = str(error).strip().split("\n")[0]
        raise EdgeSkipError(
            f"{source} has no tokenizer.json and transformers cannot make one ({reason}): add a tokenizer.json"
        ) from None
