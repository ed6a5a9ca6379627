"""What an export leaves: manifests, their files, and where a named artifact is."""
