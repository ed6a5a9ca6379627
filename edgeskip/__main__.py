"""`python -m edgeskip` is the `edgeskip` command; torchrun starts it this way."""

from edgeskip.cli import main

if __name__ == "__main__":
    main()
