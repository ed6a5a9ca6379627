"""llama.cpp through the package llama-cpp-python: found, checked feature by feature, and kept quiet.

Versions say little (people build llama.cpp themselves), so what counts is that every function and field used here is
there. What llama.cpp logs is dropped, except its errors, which say why a call failed.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.core.requirements import installed_version
from edgeskip.runtime.engines.llamacpp.build import PACKAGE, advise_here, install_command

EXTRA = "llamacpp"

_FUNCTIONS = (
    *("llama_backend_init", "llama_log_set", "llama_log_callback", "llama_supports_gpu_offload"),
    *("llama_model_default_params", "llama_model_load_from_file", "llama_model_free", "llama_model_desc"),
    *("llama_model_meta_count", "llama_model_meta_key_by_index", "llama_model_meta_val_str_by_index"),
    *("llama_model_n_ctx_train", "llama_model_n_embd", "llama_model_n_layer"),
    *("llama_model_has_encoder", "llama_model_has_decoder"),
    *("llama_context_default_params", "llama_init_from_model", "llama_free"),
    *("llama_get_memory", "llama_memory_seq_rm", "llama_decode", "llama_get_logits", "llama_batch"),
    *("llama_state_seq_get_size", "llama_state_seq_get_data", "llama_state_seq_set_data"),
    *("llama_model_get_vocab", "llama_vocab_n_tokens", "llama_vocab_type", "llama_vocab_get_text"),
    *("llama_vocab_is_eog", "llama_vocab_is_control", "llama_vocab_bos", "llama_vocab_eos", "llama_vocab_pad"),
    *("llama_tokenize", "llama_token_to_piece", "ggml_backend_sched_eval_callback"),
)
_FIELDS = {
    "llama_model_params": ("devices", "n_gpu_layers"),
    "llama_context_params": (
        *("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_threads", "n_threads_batch"),
        *("cb_eval", "offload_kqv", "op_offload", "no_perf", "type_k", "type_v", "flash_attn_type"),
    ),
    "llama_batch": ("n_tokens", "token", "embd", "pos", "n_seq_id", "seq_id", "logits"),
}
_ERROR, _CONTINUED = 4, 5  # of ggml_log_level
_errors: list[str] = []
_keep: list[Any] = []  # the log callback, which llama.cpp calls as long as the process lives


@cache
def llama() -> Any:
    """Return the module `llama_cpp.llama_cpp`, llama.cpp's C interface as ctypes functions, ready for use.

    MissingExtraError if it is not installed, EdgeSkipError if it does not load, lacks what is used here or
    fails its self-test, which runs in a separate process the first time that a build is used.
    """
    from edgeskip.runtime.engines.llamacpp.self_test import check_llamacpp

    check_llamacpp()
    return load()


@cache
def load() -> Any:
    """Return `llama()` without the self-test, for the process that does it."""
    try:
        import llama_cpp.llama_cpp as library
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "llama_cpp":
            raise EdgeSkipError(
                f"{PACKAGE} does not load ({error}): run  pip install --force-reinstall {PACKAGE}"
            ) from error
        raise MissingExtraError(PACKAGE, EXTRA, install_command(advise_here(), f"edgeskip[{EXTRA}]")) from None
    except Exception as error:  # its loader raises RuntimeError, OSError, AttributeError …
        raise EdgeSkipError(
            f"{PACKAGE} does not load ({str(error).splitlines()[0]}): run  pip install --force-reinstall {PACKAGE}"
        ) from error
    _check_features(library)
    _keep.append(library.llama_log_callback(_log))
    library.llama_log_set(_keep[-1], None)
    library.llama_backend_init()
    return library


def ggml_function(name: str, result: Any, arguments: Sequence[Any]) -> Any:
    """Return a function of ggml, the library below llama.cpp, that llama-cpp-python does not declare."""
    for library in _libraries():
        function = getattr(library, name, None)
        if function is not None:
            # A separate function object: declaring types on the shared one would change it for others.
            return ctypes.CFUNCTYPE(result, *arguments)((name, library))
    raise too_old(name)


def too_old(lacking: str) -> EdgeSkipError:
    """Return the error for a llama-cpp-python without `lacking`."""
    version = installed_version(PACKAGE) or "here"
    # The extra would not do: pip leaves a version alone that meets its requirement.
    return EdgeSkipError(f"{PACKAGE} {version} is too old: it lacks {lacking}; run  pip install -U {PACKAGE}")


def listen() -> None:
    """Install the log callback again before a load, for `failure`: other code may have replaced it."""
    load().llama_log_set(_keep[-1], None)
    forget_errors()


def forget_errors() -> None:
    """Forget logged errors before a step, so that `failure` can explain it."""
    _errors.clear()


def failure() -> str:
    """Return why the last call failed: the first error that llama.cpp logged, because later ones follow from it."""
    line = next((line.strip() for line in "".join(_errors).splitlines() if line.strip()), "it does not say why")
    return re.sub(r"^([\w:~]+: )+(error loading model: )?", "", line)


def _check_features(library: Any) -> None:
    for name in _FUNCTIONS:
        if not hasattr(library, name):
            raise too_old(name)
    for structure, fields in _FIELDS.items():
        present = {name for name, *_ in getattr(library, structure)._fields_} if hasattr(library, structure) else ()
        for field in fields:
            if field not in present:
                raise too_old(f"{structure}.{field}")


@cache
def _libraries() -> tuple[Any, ...]:
    """Return llama.cpp's shared library, whose handle finds ggml's functions on most systems, and ggml's own two."""
    library = load()
    found = [library._lib]
    for name in ("ggml-base", "ggml"):
        try:
            found.append(library.load_shared_library(name, library._base_path))
        except (OSError, RuntimeError):  # built into one library
            continue
    return tuple(found)


def _log(level: int, text: bytes, _: Any) -> None:
    if level == _ERROR or (level == _CONTINUED and _errors):
        _errors.append(text.decode("utf-8", "replace"))
        del _errors[:-50]
