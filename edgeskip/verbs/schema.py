"""`edgeskip schema`: the JSON Schema of the profile."""

from __future__ import annotations


def schema() -> None:
    """Print the JSON Schema of a profile, every field documented."""
    import json

    from edgeskip.profile import Profile

    print(json.dumps(Profile.model_json_schema(), indent=2, ensure_ascii=False))
