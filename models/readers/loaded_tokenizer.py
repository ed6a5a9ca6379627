"""A model folder's tokenizer as transformers loads it (`AutoTokenizer`), without running any code of the folder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.token_numbers import check_token_numbers
from edgeskip.models.readers.json_file import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
# Files from which transformers makes a tokenizer's vocabulary.
VOCABULARIES = (TOKENIZER, "tokenizer.model", "vocab.json", "vocab.txt", "tiktoken.model", "spiece.model")


@dataclass(frozen=True)
class LoadedTokenizer:
    """What transformers made of a folder.

    `auto` is transformers' object, `backend` the tokenizers library's under it, with truncation, padding and dropout
    off. `generic` is why `AutoTokenizer` could not open the folder, so that transformers' generic class read its
    tokenizer.json; None if it could.
    """

    auto: PreTrainedTokenizerBase
    backend: Tokenizer
    generic: str | None = None

    @property
    def splits_special_tokens(self) -> bool:
        """Whether special tokens written in a text are spelled out (`split_special_tokens`)."""
        return bool(getattr(self.auto, "split_special_tokens", False))

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of `text` by transformers itself. Raises EdgeSkipError if it cannot encode it."""
        try:
            return list(self.auto(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # its checks raise all kinds, and the tokenizers library panics
            raise EdgeSkipError(
                f"transformers cannot encode {ascii(text)[:40]} with the model's tokenizer ({_reason(error)}): fetch "
                "the model again"
            ) from None

    def decode(self, ids: list[int]) -> str:
        """Return the text of `ids` by transformers itself, special tokens and its clean-up of spaces left out."""
        try:
            return str(self.auto.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # some decoders make the tokenizers library panic, which is no Exception
            raise EdgeSkipError(
                f"transformers cannot decode {str(ids)[:40]} with the model's tokenizer ({_reason(error)}): fetch the "
                "model again"
            ) from None


def load_tokenizer(folder: Path) -> LoadedTokenizer:
    """Return the tokenizer of a model or PEFT folder.

    A folder with only a slow tokenizer's files is converted by transformers. If `AutoTokenizer` cannot open the folder
    (it wants to run the folder's own code, say) but there is a tokenizer.json, transformers' generic class reads it
    with the folder's other files.

    Raises:
        Raises EdgeSkipError if a file is damaged or neither way gives a tokenizer.
    """
    # Before the attempts below, which take any error for the folder's; without torch, transformers prints advice.
    import torch  # noqa: F401
    import transformers  # noqa: F401

    file = folder / TOKENIZER
    if file.is_file():
        _check_readable(file)
    if (folder / CONFIG).is_file():
        read_json(folder / CONFIG)
    with _quiet():
        generic: str | None = None
        try:
            auto = _open(folder)
            backend = auto.backend_tokenizer
        except Exception as error:  # many kinds: no files, no sentencepiece, a class that has no fast form, own code
            generic = _reason(error)
            if not file.is_file():
                raise EdgeSkipError(
                    f"{folder} has no {TOKENIZER} and transformers cannot make one ({generic}): add a {TOKENIZER}"
                ) from None
            try:
                auto = _open_generic(folder)
                backend = auto.backend_tokenizer
            except Exception as second:
                raise EdgeSkipError(
                    f"{folder}: transformers cannot open its tokenizer ({_reason(second)}): fetch the model again"
                ) from None
        _check_whole(auto, folder)
        backend.no_truncation()
        backend.no_padding()
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None  # for training: with it the same text gives other tokens each time
    return LoadedTokenizer(auto, backend, generic)


def _open(folder: Path) -> Any:
    """Return what `AutoTokenizer` makes of a folder; transformers 4.57 also reads what 5 writes."""
    import transformers

    settings = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if int(transformers.__version__.split(".")[0]) < 5 and settings.get("tokenizer_class") == "TokenizersBackend":
        return _open_generic(folder)  # the generic class under its name in transformers 5
    renamed = _renamed(settings)
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **renamed)


def _open_generic(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    settings = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True, **_renamed(settings))


def _renamed(settings: dict[str, Any]) -> dict[str, Any]:
    """Return arguments that give transformers 4.57 a list of `extra_special_tokens` under its own name."""
    import transformers

    extra = settings.get("extra_special_tokens")
    if int(transformers.__version__.split(".")[0]) >= 5 or not isinstance(extra, list):
        return {}
    tokens = [token.get("content") if isinstance(token, dict) else token for token in extra]
    return {"extra_special_tokens": {}, "additional_special_tokens": tokens}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' advice while the context lasts; what matters is checked."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def _reason(error: BaseException) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__).removesuffix(".")


def _check_readable(path: Path) -> None:
    """Raise EdgeSkipError if the tokenizers library cannot read the file."""
    from tokenizers import Tokenizer

    try:
        check_token_numbers(read_json(path))
    except ValueError as error:
        raise EdgeSkipError(f"{path} is damaged ({error}): fetch the model again") from None
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise EdgeSkipError(f"{path} is not a tokenizer ({_reason(error)}): fetch the model again") from None


def _check_whole(auto: Any, folder: Path) -> None:
    """Raise EdgeSkipError if transformers found no vocabulary: it then makes an empty tokenizer without a word."""
    if len(auto) == 0 or not auto.get_vocab():
        raise EdgeSkipError(f"{folder} has no {TOKENIZER} and transformers cannot make one: add a {TOKENIZER}")
    template = auto.chat_template
    templates = template.values() if isinstance(template, dict) else [template or ""]
    if not all(isinstance(text, str) for text in templates):
        raise EdgeSkipError(f"{folder}: its chat_template is not text: fix {CONFIG}, or fetch the model again")


def has_vocabulary(folder: Path) -> bool:
    """Return whether a folder holds its own tokenizer."""
    return any((folder / name).is_file() for name in VOCABULARIES)


def normalized(loaded: LoadedTokenizer) -> dict[str, Any]:
    """Return tokenizer.json's content: everything that transformers added is in it, nothing cuts or fills a text."""
    spec: dict[str, Any] = json.loads(loaded.backend.to_str())
    spec["truncation"] = spec["padding"] = None
    return spec
