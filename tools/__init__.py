"""What builds and proves the project; not installed with it."""
