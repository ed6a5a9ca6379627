"""The sandbox that chat templates are rendered in."""
