"""The Files API: what is uploaded, kept and removed."""
