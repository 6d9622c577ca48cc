"""`memoria doctor`: looks, before a start, at what starts fail of most.

Every file but `composition.py` judges one kind of thing by what it is given, and looks at nothing itself: so each
can be tested with a machine that is not there.
"""
