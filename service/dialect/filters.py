"""The shape of PostgREST's filters, which do nothing when rows are written. What is no filter is refused all the same.

A parameter that is misspelt, or meant for something else, is an error there, and so it is here: it is not to be lost
without a word. Must not know columns, nor what the operators do.
"""

from __future__ import annotations

import re

from service.dialect.scan import Scan

_DEPTH_MAX = 32
"""Trees in trees. Nobody writes more than a few, and each one is a call on the stack."""

# https://docs.postgrest.org/en/stable/references/api/tables_views.html#operators
_NOT = re.compile(r"not\.")
_PLAIN = re.compile(r"(?:neq|cs|cd|ov|sl|sr|nxr|nxl|adj|isdistinct)\.")
_QUANTIFIED = re.compile(r"(?:eq|gte|gt|lte|lt|like|ilike|match|imatch)(?:\((?:any|all)\))?\.")
_SEARCH = re.compile(r"(?:fts|plfts|phfts|wfts)(?:\([\w$ ]+\))?\.")
_IS = re.compile(r"is\.(?:null|not_null|true|false|unknown)", re.IGNORECASE)
_IN = re.compile(r"in\. *\( *")

_REST = re.compile(".*", re.DOTALL)
_ELEMENT = re.compile(r"[^,)]*")
_QUOTED_ELEMENT = re.compile(r'"(?:[^"\\]|\\.)*"(?=[,)])', re.DOTALL)
_ARRAY = re.compile(r"\{[^{}]*\}")
_COMMA = re.compile(" *, *")
_OPEN = re.compile(r" *\( *")
_CLOSE = re.compile(r" *\) *")
_TREE = re.compile(r"(?:not\.)?(?:and|or)(?= *\()")
_PATH = re.compile(r"(?:->>?(?:-?[0-9]+|[\w$ ]+))+")


def check_filter(name: str, value: str) -> None:
    """See whether a parameter is a filter: `column=[not.]operator.value`. Raises `Refused`."""
    _names(Scan(name, _PATH.sub("", name)))
    scan = Scan(name, value)
    _condition(scan, in_tree=False)
    if not scan.at_end():
        raise scan.expected("the end")


def check_logic(name: str, value: str) -> None:
    """See whether a parameter is a tree of filters: `[not.]and|or=(…, …)`. Raises `Refused`."""
    tables, dot, _ = name.rpartition(".")
    if dot:
        _names(Scan(name, tables))
    scan = Scan(name, value)
    _members(scan, 1)
    if not scan.at_end():
        raise scan.expected("the end")


def _names(scan: Scan) -> None:
    """Names with full stops between them, to the end."""
    scan.name()
    while not scan.at_end():
        if not scan.take_text("."):
            raise scan.expected("a full stop or the end")
        scan.name()


def _members(scan: Scan, depth: int) -> None:
    if depth > _DEPTH_MAX:
        raise scan.expected(f"no more than {_DEPTH_MAX} levels of brackets")
    if scan.take(_OPEN) is None:
        raise scan.expected("an opening bracket")
    while True:
        if scan.take(_TREE) is not None:
            _members(scan, depth + 1)
        else:
            scan.name()
            scan.take(_PATH)
            if not scan.take_text("."):
                raise scan.expected("a full stop and an operator")
            _condition(scan, in_tree=True)
        if scan.take(_CLOSE) is not None:
            return
        if scan.take(_COMMA) is None:
            raise scan.expected("a comma or a closing bracket")


def _condition(scan: Scan, *, in_tree: bool) -> None:
    scan.take(_NOT)
    if scan.take(_IS) is not None:
        return
    if scan.take(_IN) is not None:
        _elements(scan)
        return
    if not any(scan.take(operators) for operators in (_QUANTIFIED, _PLAIN, _SEARCH)):
        raise scan.expected("an operator (eq, gt, …) and a full stop")
    if in_tree:
        _element(scan)
    else:
        scan.take(_REST)


def _elements(scan: Scan) -> None:
    """What stands in the brackets of `in.(…)`."""
    while True:
        _element(scan)
        if scan.take(_CLOSE) is not None:
            return
        if scan.take(_COMMA) is None:
            raise scan.expected("a comma or a closing bracket")


def _element(scan: Scan) -> None:
    """A value among others: quoted, an array, or whatever has no comma and no bracket."""
    if not (scan.take(_QUOTED_ELEMENT) or scan.take(_ARRAY)):
        scan.take(_ELEMENT)
