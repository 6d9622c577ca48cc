"""The command `memoria doctor`: checks for the most common causes of failed starts.

`composition.py` and `inspection.py` examine the machine. The other modules judge what they are given, so that they
can be tested without such a machine.
"""
