"""The subcommands of `memoria`."""
