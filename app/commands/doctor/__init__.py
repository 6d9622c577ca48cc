"""`memoria doctor`: looks, before a start, at what starts fail of most.

`composition.py` and `inspection.py` look at the machine. Every other file judges one kind of thing by what it is
given, so that it can be tested without a machine of that kind.
"""
