"""Headrace in your own program: rows that `Headrace.insert` is given share batches with those of all other requests.

What `__all__` lists is public, nothing else.
"""

from service.library.errors import DuplicateKey, HeadraceError, NotRunning, OutcomeUnknown, RowsRefused, Unavailable
from service.library.headrace import Headrace
from service.lifespan import StartRefused

__all__ = [
    "DuplicateKey",
    "Headrace",
    "HeadraceError",
    "NotRunning",
    "OutcomeUnknown",
    "RowsRefused",
    "StartRefused",
    "Unavailable",
]

for _name in __all__:
    globals()[_name].__module__ = __name__  # tracebacks name them as the code that catches them does
