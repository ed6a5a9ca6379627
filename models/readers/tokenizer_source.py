"""Where a model's tokenizer comes from: a folder that transformers reads, or files that are made."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import named_instead
from edgeskip.models.readers.json_file import read_json
from edgeskip.models.readers.loaded_tokenizer import (
    CONFIG,
    TOKENIZER,
    LoadedTokenizer,
    has_vocabulary,
    load_tokenizer,
)
from edgeskip.models.readers.tokenizer_files import NAMED, SPECIAL_TOKENS_MAP, tokenizer_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEMPLATE = "chat_template.jinja"
TEMPLATES = "additional_chat_templates"  # a folder with one file for each named template
# Files that may say something about a tokenizer; the vocabularies are in `loaded_tokenizer`.
_SETTINGS = (CONFIG, SPECIAL_TOKENS_MAP, "added_tokens.json", TEMPLATE)


class TokenizerSource:
    """A tokenizer: `loaded` as transformers reads it, `files` as EdgeSkip writes it. Both are made when first used.

    `file` names what the user can fix in messages.
    """

    file: str

    @property
    def loaded(self) -> LoadedTokenizer:
        """The tokenizer as transformers has it. Raises EdgeSkipError if there is none or it is damaged."""
        raise NotImplementedError

    @property
    def files(self) -> Mapping[str, bytes]:
        """File name → content. Raises EdgeSkipError if there is no tokenizer or it is damaged."""
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
    """One tokenizer with what a PEFT folder says otherwise: keys of settings, special tokens, chat templates. The
    folder has no vocabulary."""

    def __init__(self, base: TokenizerSource, folder: Path) -> None:
        self._base, self._folder = base, folder
        self.file = str(folder)

    @cached_property
    def loaded(self) -> LoadedTokenizer:
        _check_template(self._folder)
        with _temporary(self.file) as over:
            (over / TOKENIZER).write_bytes(self._base.files[TOKENIZER])
            # The base's special_tokens_map.json repeats its settings, and would outrank the folder's settings.
            for setting in ("added_tokens.json", TEMPLATE):
                if (self._folder / setting).is_file():
                    (over / setting).write_bytes((self._folder / setting).read_bytes())
            if (self._folder / SPECIAL_TOKENS_MAP).is_file():
                special = read_json(self._folder / SPECIAL_TOKENS_MAP)
                (over / SPECIAL_TOKENS_MAP).write_text(json.dumps(_plain_lists(special)), encoding="utf-8")
            config = self._merged()
            templates = _named_templates(self._folder)
            if templates and not (over / TEMPLATE).is_file():
                # As files they would replace the base's template, which they stand beside.
                found = _by_name(config.get("chat_template")) | templates
                config["chat_template"] = [{"name": name, "template": source} for name, source in found.items()]
            elif templates:
                (over / TEMPLATES).mkdir()
                for name, source in templates.items():
                    (over / TEMPLATES / f"{name}.jinja").write_text(source, encoding="utf-8", newline="")
            (over / CONFIG).write_text(json.dumps(config), encoding="utf-8")
            return load_tokenizer(over)

    def _merged(self) -> dict[str, Any]:
        """Return tokenizer_config.json: the base's keys, those of the folder before them."""
        own = read_json(self._folder / CONFIG) if (self._folder / CONFIG).is_file() else {}
        config: dict[str, Any] = json.loads(self._base.files[CONFIG])
        # All of these tokens are in tokenizer.json. With the key, transformers does not look into the folder's
        # special_tokens_map.json and added_tokens.json.
        config.pop("added_tokens_decoder", None)
        if isinstance(named := config.get(NAMED), dict):  # it outranks keys of the same names
            config[NAMED] = {name: token for name, token in named.items() if name not in own}
        return config | own

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
    """Yield a temporary folder; errors name `file` instead of it."""
    with (
        tempfile.TemporaryDirectory(prefix="edgeskip-tokenizer-") as name,
        named_instead(Path(name), Path(file)),
    ):
        yield Path(name)


def peft_tokenizer(folder: Path, base: TokenizerSource) -> TokenizerSource:
    """Return the tokenizer of a model with the LoRA in a PEFT folder: the folder's own, as far as it has one."""
    if has_vocabulary(folder):
        return FolderTokenizer(folder)
    has_settings = any((folder / name).is_file() for name in _SETTINGS) or _template_files(folder)
    return OverlaidTokenizer(base, folder) if has_settings else base


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
    for path in (folder / TEMPLATE, *_template_files(folder)):
        if path.is_file():
            _template_text(path)


def _template_files(folder: Path) -> list[Path]:
    return [path for path in sorted((folder / TEMPLATES).glob("*.jinja")) if path.is_file()]


def _template_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise EdgeSkipError(f"{path} is not UTF-8 ({error}): fetch the model again") from None


def _named_templates(folder: Path) -> dict[str, str]:
    """Return name → template of the folder's `additional_chat_templates`."""
    return {path.name.removesuffix(".jinja"): _template_text(path) for path in _template_files(folder)}


def _plain_lists(special: Mapping[str, Any]) -> dict[str, Any]:
    """Return special_tokens_map.json with texts in its lists: transformers 4 writes objects, which 5 refuses."""
    return {
        key: [token.get("content") if isinstance(token, dict) else token for token in entry]
        if isinstance(entry, list)
        else entry
        for key, entry in special.items()
    }


def _by_name(templates: Any) -> dict[str, Any]:
    """Return name → template of tokenizer_config.json's `chat_template`: one text, or a list of named ones."""
    if isinstance(templates, list):
        named = [entry for entry in templates if isinstance(entry, dict)]
        return {str(entry.get("name")): entry.get("template") for entry in named}
    return {"default": templates} if templates else {}
