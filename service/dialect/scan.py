"""Reading one parameter of a query from left to right. Each character is looked at once or twice, whatever it says.

Owns how names are written, and the words for what cannot be read. Must not know what the parameters mean.
"""

from __future__ import annotations

import re

from service.problems import Problem, Refused
from sql import Fault

NAME_WANTED = "a name: letters, digits, _, $, - and spaces, or anything in double quotes"

_NAME_SHOWN_CHARACTERS = 64

_SPACES = re.compile(" *")
# A dash belongs to the name, unless it is the beginning of an arrow.
_BARE = re.compile(r"(?:[\w$ ]|-(?!>))+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
# A backslash takes the next character as it is.
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def malformed(message: str, details: str | None) -> Refused:
    """A query that cannot be read."""
    return Refused(Problem(400, Fault("PGRST100", message, details)))


class Scan:
    """One parameter's value, and how far it has been read."""

    def __init__(self, parameter: str, text: str) -> None:
        self.text = text
        self._parameter = parameter
        self._at = 0

    def at_end(self) -> bool:
        """Whether all of it has been read."""
        return self._at == len(self.text)

    def sees(self, *texts: str) -> bool:
        """Whether one of these comes next."""
        return self.text.startswith(texts, self._at)

    def take_text(self, text: str) -> bool:
        """Go past this text, if it comes next."""
        seen = self.sees(text)
        if seen:
            self._at += len(text)
        return seen

    def take(self, pattern: re.Pattern[str]) -> str | None:
        """What comes next, if it is of this form."""
        match = pattern.match(self.text, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match.group()

    def spaces(self) -> None:
        """Go past spaces."""
        self.take(_SPACES)

    def name(self) -> str:
        """A name, quoted or bare. Raises `Refused`."""
        name = self._quoted() if self.sees('"') else (self.take(_BARE) or "").strip(" ")
        if not name:
            raise self.expected(NAME_WANTED)
        return name

    def expected(self, what: str) -> Refused:
        """The refusal of what comes next."""
        parameter = self._parameter[:_NAME_SHOWN_CHARACTERS]
        return malformed(f'The parameter "{parameter}" cannot be read at character {self._at + 1}', f"Expected {what}")

    def _quoted(self) -> str:
        found = self.take(_QUOTED)
        if found is None:
            raise self.expected("a closing double quote")
        return _ESCAPED.sub(r"\1", found[1:-1])
