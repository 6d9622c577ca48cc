"""`memoria bench`: how fast a service is, and against what."""
