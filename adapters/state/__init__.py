"""Keeps responses and conversations in a database: an SQLite file, or PostgreSQL."""
