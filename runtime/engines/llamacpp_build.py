"""The old name of `edgeskip.runtime.engines.llamacpp.build`, for commands that users were told of."""

from edgeskip.runtime.engines.llamacpp.build import main

if __name__ == "__main__":
    main()
