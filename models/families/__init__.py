"""The model families: names of parameters, traits of blocks, as data."""
