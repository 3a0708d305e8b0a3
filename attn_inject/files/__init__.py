"""File formats: how tensors and a record get into a file whole, and out of it without running anything.

`imported` is the one exception, and for code that the caller named; `described` tells such code from other code.
"""
