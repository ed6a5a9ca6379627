"""The old name of `edgeskip.runtime.engines.llamacpp.build`, for commands that older documents show."""

from edgeskip.runtime.engines.llamacpp.build import main

if __name__ == "__main__":
    main()
