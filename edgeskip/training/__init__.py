"""Training: models that exit early, exit adapters on frozen models, and healing of skipped models (extra `train`)."""
