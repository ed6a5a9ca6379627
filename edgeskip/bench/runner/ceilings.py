"""Rooflines measured more than once: the better of each, for whatever was busy at first may have gone."""

from __future__ import annotations

from collections.abc import Sequence

from edgeskip.bench.schema import Device, Roofline


def merge_rooflines(device: Device, again: Sequence[Roofline]) -> Device:
    """The device with what it has and `again` together; bytes and operations each count by themselves."""
    found = {(one.provider, one.threads): one for one in device.rooflines}
    for one in again:
        key = (one.provider, one.threads)
        found[key] = _higher(found[key], one) if key in found else one
    return device.model_copy(update={"rooflines": list(found.values())})


def _higher(one: Roofline, other: Roofline) -> Roofline:
    """Where the first could not be measured, `how` is the other's, which tells how it was."""
    measured = one if one.bytes_per_s or one.flops_per_s else other
    return measured.model_copy(
        update={
            "bytes_per_s": max(one.bytes_per_s or 0.0, other.bytes_per_s or 0.0) or None,
            "flops_per_s": max(one.flops_per_s or 0.0, other.flops_per_s or 0.0) or None,
        }
    )
