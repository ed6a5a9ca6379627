"""The profiles that ship with EdgeSkip, as the distribution `edgeskip-presets` brings them. Data only."""
