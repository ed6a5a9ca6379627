"""Run artifacts with numpy and an inference engine; torch and transformers are never imported."""
