"""Where a model's tokenizer comes from: a folder that transformers reads, or files that are made."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.errors import EdgeSkipError
from edgeskip.exporters.families.loaded_tokenizer import (
    CONFIG,
    TOKENIZER,
    LoadedTokenizer,
    has_vocabulary,
    load_tokenizer,
)
from edgeskip.exporters.families.tokenizer_files import SPECIAL_TOKENS_MAP, tokenizer_files
from edgeskip.files import named_instead

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEMPLATE = "chat_template.jinja"
# Files that may say something about a tokenizer; the vocabularies are in `loaded_tokenizer`.
_SETTINGS = (CONFIG, SPECIAL_TOKENS_MAP, "added_tokens.json", TEMPLATE)


class TokenizerSource:
    """A tokenizer: `loaded` as transformers reads it, `files` as EdgeSkip writes it. Both are made when first used.

    `file` names what the user can fix in messages.
    """

    file: str

    @property
    def loaded(self) -> LoadedTokenizer:
        """The tokenizer as transformers has it. EdgeSkipError if there is none or it is damaged."""
        raise NotImplementedError

    @property
    def files(self) -> Mapping[str, bytes]:
        """File name → content. EdgeSkipError if there is no tokenizer or it is damaged."""
        raise NotImplementedError


class FolderTokenizer(TokenizerSource):
    """The tokenizer in a Hugging Face folder, or in a PEFT folder that has one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = str(folder)

    @cached_property
    def loaded(self) -> LoadedTokenizer:
        _check_template(self.folder)
        return load_tokenizer(self.folder)

    @cached_property
    def files(self) -> Mapping[str, bytes]:
        return tokenizer_files(self.loaded, self.folder)


class OverlaidTokenizer(TokenizerSource):
    """The vocabulary of one tokenizer with the settings or the chat template of a PEFT folder, which has no
    vocabulary."""

    def __init__(self, base: TokenizerSource, folder: Path) -> None:
        self._base, self._folder = base, folder
        self.file = str(folder)

    @cached_property
    def loaded(self) -> LoadedTokenizer:
        _check_template(self._folder)
        with _temporary(self.file) as over:
            write_files(self._base.files, over)
            for setting in _SETTINGS:
                if (self._folder / setting).is_file():
                    (over / setting).write_bytes((self._folder / setting).read_bytes())
            return load_tokenizer(over)

    @cached_property
    def files(self) -> Mapping[str, bytes]:
        return tokenizer_files(self.loaded, self._folder)


class MadeTokenizer(TokenizerSource):
    """A tokenizer whose files are made of something else: a GGUF's keys, or what a profile's LoRA was stored with."""

    def __init__(self, make: Callable[[], Mapping[str, bytes]], file: str) -> None:
        self._make = make
        self.file = file

    @cached_property
    def loaded(self) -> LoadedTokenizer:
        with _temporary(self.file) as folder:
            write_files(self.files, folder)
            return load_tokenizer(folder)

    @cached_property
    def files(self) -> Mapping[str, bytes]:
        return self._make()


@contextmanager
def _temporary(file: str) -> Iterator[Path]:
    """A folder that is gone when the block ends; errors name `file` in its place."""
    with (
        tempfile.TemporaryDirectory(prefix="edgeskip-tokenizer-") as name,
        named_instead(Path(name), Path(file)),
    ):
        yield Path(name)


def peft_tokenizer(folder: Path, base: TokenizerSource) -> TokenizerSource:
    """Return the tokenizer of a model with the LoRA in a PEFT folder: the folder's own, as far as it has one."""
    if has_vocabulary(folder):
        return FolderTokenizer(folder)
    return OverlaidTokenizer(base, folder) if any((folder / name).is_file() for name in _SETTINGS) else base


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the files into a folder that exists."""
    for name, content in files.items():
        (folder / name).write_bytes(content)


def fast_tokenizer(files: Mapping[str, bytes]) -> Tokenizer:
    """Return the tokenizers library's tokenizer that written files describe."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(files[TOKENIZER].decode("utf-8"))
    tokenizer.encode_special_tokens = bool(json.loads(files[CONFIG]).get("split_special_tokens", False))
    return tokenizer


def _check_template(folder: Path) -> None:
    path = folder / TEMPLATE
    if path.is_file():
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise EdgeSkipError(f"{path} is not UTF-8 ({error}): fetch the model again") from None
