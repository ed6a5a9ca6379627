"""One small interface, one file per engine."""
