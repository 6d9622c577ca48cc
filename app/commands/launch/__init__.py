"""The command `memoria launch`: prints or writes the configuration that makes a coding agent use this service.

`target.py` finds the service's address, model and context length. Each agent's module says what to configure;
`merging.py` adds that to what the agent's file has, and `files.py` writes the file.
"""
