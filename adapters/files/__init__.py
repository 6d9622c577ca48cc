"""Keeps the contents of files in a folder."""
