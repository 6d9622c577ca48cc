"""The command `memoria plan`."""
