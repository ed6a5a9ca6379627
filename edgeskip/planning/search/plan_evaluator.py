"""The quality of plans, each measured once: on the torch model, or read from the log of a search that was cut short."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter

from edgeskip.core.bounds import Count, dataclass_from
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file
from edgeskip.core.json_file import parse_json
from edgeskip.planning.search.forward import StreamState, forward, kept_streams
from edgeskip.planning.search.quality import PlanQuality, QualityMeter

if TYPE_CHECKING:
    from torch import Tensor

    from edgeskip.core.plan import Compensation
    from edgeskip.planning.search.runner import SublayerRunner

SkipSet = frozenset[int]
KEPT_EVERY = 4  # sublayers between streams that are kept: memory against running a few sublayers again
ROWS = 1024  # tokens that a candidate is compared on, at most: the head is a third of the work


@dataclass(frozen=True)
class _Reported:
    """What a point of the front records about a plan; names and bounds as `ParetoPoint` has them."""

    kl: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    perplexity_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    perplexity_error: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    top1_agreement: Annotated[float, Field(ge=0, le=1)]


_SKIPS: TypeAdapter[list[int]] = TypeAdapter(list[Count])


class QualityLog:
    """Plans and their quality, appended to a file as they are measured; a search that was killed goes on from it.

    `stem` is the file's path without its end, which names the settings: searches of other settings keep their own.
    """

    def __init__(self, stem: Path | None, settings: dict[str, Any]) -> None:
        self.path: Path | None = None
        self.known: dict[SkipSet, PlanQuality] = {}
        self.reported: dict[SkipSet, dict[str, float]] = {}
        """What was measured on the text to report on, by the names of a front's point."""
        if stem is None:
            return
        header = json.dumps({"edgeskip-search": 1, **settings}, sort_keys=True)
        digest = hashlib.sha256(header.encode()).hexdigest()[:8]
        self.path = stem.with_name(f"{stem.name}.search-{digest}.jsonl")
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        lines = text.splitlines()
        if lines and lines[0] != header:
            raise EdgeSkipError(f"{self.path} is not the log of this search: move it away")
        whole = [line for line in lines[1:] if self._take(line)]
        # If a search was killed, the last line is torn or lacks its end.
        if not text.endswith("\n") or len(whole) < len(lines) - 1:
            replace_file(self.path, "".join(f"{line}\n" for line in [header, *whole]).encode())

    def add(self, skips: SkipSet, quality: PlanQuality) -> None:
        self.known[skips] = quality
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                means = {name: value for name, value in asdict(quality).items() if name != "losses"}
                file.write(json.dumps({"skip": sorted(skips), **means}) + "\n")

    def report(self, skips: SkipSet, found: dict[str, float]) -> None:
        self.reported[skips] = found
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"skip": sorted(skips), "reported": found}) + "\n")

    def _take(self, line: str) -> bool:
        """Return whether `line` is the record of a plan, which is then known."""
        try:
            record = parse_json(line)
            if not isinstance(record, dict):
                return False
            skips = frozenset(_SKIPS.validate_python(record.pop("skip", None)))
            if "reported" in record:
                self.reported[skips] = asdict(dataclass_from(_Reported, record["reported"]))
            else:
                self.known[skips] = dataclass_from(PlanQuality, record)
        except ValueError:  # pydantic's is one too
            return False
        return True


class PlanEvaluator:
    """Measures plans that are near a base plan: what comes before the first difference is not run again.

    The windows of `runner` are those to fit to, number below `fit_windows`, then those to compare on.
    """

    def __init__(self, runner: SublayerRunner, fit_windows: int, compensation: Compensation, log: QualityLog) -> None:
        self._runner, self._compensation, self._log = runner, compensation, log
        self._rows = slice(0, fit_windows)
        self._base: SkipSet = frozenset()
        self._kept: dict[int, StreamState] = {}
        self._dense: list[Tensor] = []
        x = self._run_base(frozenset())
        compared = slice(fit_windows, None)
        tokens = (len(runner.windows) - fit_windows) * (runner.windows.shape[1] - 1)
        self._meter = QualityMeter(runner, x, compared, stride=-(-tokens // ROWS))
        self.dense = self._meter.measure(x)

    @property
    def num_sublayers(self) -> int:
        return self._runner.num_sublayers

    def set_base(self, skips: SkipSet) -> None:
        """Set the plan that the next ones are near to."""
        self._wanted = skips

    def quality(self, skips: SkipSet) -> PlanQuality:
        """Return the quality of a plan, its compensation fitted on the way."""
        found = self._log.known.get(skips)
        if found is None:
            if self._wanted != self._base:
                self._run_base(self._wanted)
            found = self._meter.measure(self._run(skips))
            self._log.add(skips, found)
        return found

    def _run(self, skips: SkipSet) -> Tensor:
        first = min(skips ^ self._base, default=self.num_sublayers - 1) // KEPT_EVERY * KEPT_EVERY
        return forward(
            self._runner, skips, self._compensation, kept_streams(self._dense), self._rows,
            first=first, before=self._kept[first],
        )[0]  # fmt: skip

    def _run_base(self, skips: SkipSet) -> Tensor:
        """Keep the streams of `skips`; of the dense model first, whose streams everything is fitted to."""
        first = min(skips ^ self._base, default=0) // KEPT_EVERY * KEPT_EVERY
        fill = not self._dense

        def keep(index: int, kept: StreamState) -> None:
            if fill and index:
                self._dense.append(kept[0][self._rows].clone())
            if index % KEPT_EVERY == 0:
                self._kept[index] = kept

        x, _ = forward(
            self._runner, skips, self._compensation, kept_streams(self._dense), self._rows,
            first=first, before=self._kept.get(first), watch=keep,
        )  # fmt: skip
        if fill:
            self._dense.append(x[self._rows].clone())
        self._base = self._wanted = skips
        return x
