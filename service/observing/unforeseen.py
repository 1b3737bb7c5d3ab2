"""Bugs of ours: what nobody foresaw is logged with its traceback, under a name that its answer has too.

Owns that whoever is shown an HR500 can find the line about it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from service.dialect.marks import marks_of
from service.observing.account import names_of
from service.problems import INTERNAL_ERROR, Problem

if TYPE_CHECKING:
    from starlette.types import Scope

    from service.posting import Posting

logger = logging.getLogger(__name__)


def unforeseen(what: str, error: BaseException, posting: Posting) -> Problem:
    """Log it. Returns the problem to answer with; a request without an id has got one in both."""
    names = names_of(posting)
    if "request_id" in names:  # which is in the answer already
        logger.error(what, exc_info=error, extra=names)
        return INTERNAL_ERROR
    name = uuid4().hex
    logger.error(what, exc_info=error, extra=names | {"request_id": name})
    return replace(INTERNAL_ERROR, headers=(("x-request-id", name),))


def name_of(scope: Scope) -> str:
    """The id of a request as ASGI has it; one that has none gets it from the first who asks."""
    name: str = name_in(scope) or scope.setdefault(_NAME, uuid4().hex)
    return name


def name_in(scope: Scope) -> str:
    """Its id, if it has one by now."""
    name: str = marks_of(scope["headers"]).name or scope.get(_NAME, "")
    return name


_NAME = "headrace.request_id"
