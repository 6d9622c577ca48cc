"""Finds models in folders, on the hub or in packages, and reads the hardware that runs them."""
