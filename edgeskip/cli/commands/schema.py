"""`edgeskip schema`: the JSON Schema of the profile."""

from __future__ import annotations


def schema() -> None:
    """Print the JSON Schema of a profile."""
    from edgeskip.core.terminal import print_json
    from edgeskip.profiles.schema import Profile

    print_json(Profile.model_json_schema(), indent=2)
