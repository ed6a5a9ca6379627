"""Names and order of sublayers. Oracle: the design's words (attn.0, ffn.0, attn.1, …)."""

import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.sublayers import Sublayer, parse_sublayer, sublayers_of


def test_order_is_execution_order() -> None:
    names = [str(s) for s in sublayers_of(2)]
    assert names == ["attn.0", "ffn.0", "attn.1", "ffn.1"]
    assert sorted(set(sublayers_of(12))) == list(sublayers_of(12))


def test_index_counts_sublayers() -> None:
    assert [s.index for s in sublayers_of(3)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("sublayer", sublayers_of(11))
def test_name_round_trip(sublayer: Sublayer) -> None:
    assert parse_sublayer(f" {sublayer} ", 11) == sublayer


@pytest.mark.parametrize(
    "name", ["attn.4", "mlp.0", "attn", "attn.-1", "ffn.1.2", "", "attn.1x", "Attn.1", "attn.٣", "attn." + "9" * 5000]
)
def test_unknown_names_say_what_exists(name: str) -> None:
    with pytest.raises(EdgeSkipError, match=r"attn\.0 … attn\.3"):
        parse_sublayer(name, 4)
