"""A device profile of three blocks, with fields to change."""

from __future__ import annotations

from typing import Any

from profiles import make_profile

from edgeskip.profiles.device_profile import DecodeCost, DeviceProfile, DeviceRecord, PrefillCost

PREFILL = [10.0, 20.0, 11.0, 21.0, 8.0, 1.0]


def make_device_profile(**changes: Any) -> DeviceProfile:
    model = make_profile((0.5,) * 6).model
    device = DeviceRecord(
        system="Linux", processor="P", logical_cores=2, usable_cores=2, simd=[], memory_bytes=None, gpus=[]
    )
    fields: dict[str, Any] = {
        "name": "P, two threads",
        "model": model,
        "device": device,
        "engine": "onnxruntime",
        "provider": "cpu",
        "threads": 2,
        "precision": "int4",
        "prefill": PrefillCost(tokens=512, base_s=4.0, sublayer_s=PREFILL),
        "decode": [
            DecodeCost(context=0, base_s=1.0, sublayer_s=[1.0] * 6),
            DecodeCost(context=100, base_s=1.0, sublayer_s=[3.0, 1.0] * 3),
            DecodeCost(context=300, base_s=1.0, sublayer_s=[5.0, 1.0] * 3),
        ],
        "one_row": "after-last-attention",
        "rounds": 1,
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {},
    }
    return DeviceProfile(**(fields | changes))
