"""What an export leaves: manifests, their files, and the location of a named artifact."""
