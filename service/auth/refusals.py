"""Refusals of those who may not write: 401 for who has not proved who he is, 403 for who may not do what he asks.

Owns their words. None of them quotes from a credential.
"""

from __future__ import annotations

from service.problems import API_KEYS_UNKNOWN, CHALLENGE, Problem, refusal
from sql import Fault


def anonymous_refused() -> Problem:
    """Nobody has said who he is, where that matters."""
    hint = "Send an API key or a token: Authorization: Bearer …"
    return Problem(401, Fault("PGRST302", "Anonymous access is disabled", hint=hint), headers=CHALLENGE)


def right_missing(who: str, right: str, schema: str, table: str) -> Problem:
    """Somebody who is known may not do this. Whether there is such a table is not told."""
    message = f"permission denied for table {table}"
    return refusal(403, "42501", message, hint=f'The credential "{who}" does not grant {right} on {schema}.{table}.')


def token_invalid(message: str) -> Problem:
    """A key or a token that proves nothing. `message` must not quote from it."""
    return _unproven("PGRST301", message)


def claims_invalid(message: str) -> Problem:
    """A token that is genuine, but not for now or not for us. `message` must not quote from it."""
    return _unproven("PGRST303", message)


def _unproven(code: str, message: str) -> Problem:
    """The challenge has the reason too (RFC 6750 section 3), without what would end its quotes."""
    reason = message.replace('"', "'").replace("\\", "/")
    challenge = f'Bearer error="invalid_token", error_description="{reason}"'
    return Problem(401, Fault(code, message), headers=(("www-authenticate", challenge),))


def api_keys_unknown() -> Problem:
    """An API key that cannot be judged yet."""
    message = "The API keys are not known yet: they could not be read from the database"
    return Problem(503, Fault(API_KEYS_UNKNOWN, message), 1)
