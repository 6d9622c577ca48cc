"""Where a model comes from: a folder, a hub, or a package; and what the machine has room for."""
