"""How log records become lines: for people on a terminal, or one JSON object on each line.

Owns the form of a line, and that nothing that is logged breaks it or looks like another one. Who logs uses Python's
`logging` and gives fields as `extra`. Under other servers, and as a library, logging belongs to the program around us;
`dict_config` is for that.
"""

from __future__ import annotations

import logging
import logging.config
import os
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter
from structlog.processors import format_exc_info
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor

Format: TypeAlias = Literal["console", "json"]

_OWN = ("timestamp", "level", "logger", "event", "exception", "stack")
"""What a line has of itself; a field with such a name gets another one."""

_NO_FIELDS = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"})
"""What a record has besides its fields. Uvicorn says its message again, in colours."""


def configure(log_format: Format, level: str) -> None:
    """Write what is logged in this process, from this level on, to stderr."""
    logging.config.dictConfig(_of_server(log_format, level))


def dict_config(log_format: Format = "json", level: str = "info") -> dict[str, Any]:
    """The same for `logging.config.dictConfig`, and for servers that take such a dict."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"headrace": {"()": "service.observing.logs.formatter", "log_format": log_format}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "headrace"}},
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        "loggers": {"headrace.access": {"level": "INFO"}},  # it has a switch of its own
    }


def for_gunicorn(log_format: Format, level: str) -> dict[str, Any]:
    """The same for gunicorn, whose own lines go the same way: its loggers have handlers of their own otherwise."""
    config = _of_server(log_format, level)
    own = {"level": level.upper(), "handlers": [], "propagate": True}
    config["loggers"] |= {"gunicorn.error": own, "gunicorn.access": own}
    return config


def _of_server(log_format: Format, level: str) -> dict[str, Any]:
    config = dict_config(log_format, level)
    if level != "debug":
        config["loggers"]["uvicorn.error"] = {"level": "WARNING"}  # what it says at start and end, others say too
    return config


def formatter(log_format: Format) -> logging.Formatter:
    """Makes the lines. Colours are for terminals, and not where there is NO_COLOR (https://no-color.org)."""
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    render: list[Processor] = [_as_json] if log_format == "json" else [_for_people, _console(colours=colours)]
    return ProcessorFormatter(processors=[_describe, *render], foreign_pre_chain=[_add_fields])


# -------------------------------------------------------------------- records


def _add_fields(_logger: object, _method: str, event: EventDict) -> EventDict:
    """What was given as `extra`."""
    for name, value in vars(event["_record"]).items():
        if name not in _NO_FIELDS:
            event[f"{name}_" if name in _OWN else name] = value
    return event


def _describe(_logger: object, method: str, event: EventDict) -> EventDict:
    """All that a line has, in the order in which it has it."""
    record: logging.LogRecord = event.pop("_record")
    del event["_from_structlog"]
    stack = event.pop("stack_info", None)
    line: EventDict = {
        "timestamp": datetime.fromtimestamp(record.created, UTC),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": event.pop("event", ""),
        **event,
    }
    if isinstance(stack, str):
        line["stack"] = stack
    return format_exc_info(None, method, line)


# -------------------------------------------------------------------- JSON


def _as_json(_logger: object, _method: str, line: EventDict) -> str:
    line["timestamp"] = line["timestamp"].isoformat(timespec="milliseconds").replace("+00:00", "Z")
    try:
        text = _encode(line).decode()
    except Exception:  # noqa: BLE001 - a field may be anything: half a character, a circle, a key that is no string
        text = _encode({_text(name): _raw(value) for name, value in line.items()}).decode()
    return _ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _raw(value: object) -> msgspec.Raw:
    try:
        return msgspec.Raw(_encode(value))
    except Exception:  # noqa: BLE001 - see above
        return msgspec.Raw(_encode(_text(value)))


def _text(value: object) -> str:
    """A value that is not of JSON, as text; it must not keep the line from being written."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001 - see above
        text = f"<{type(value).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()


_ODD = re.compile("[\x7f-\x9f\u2028\u2029]")
"""What JSON may have as it is, but terminals obey or some readers take for the end of a line."""

_encode = msgspec.json.Encoder(enc_hook=_text).encode


# -------------------------------------------------------------------- the console


def _for_people(_logger: object, _method: str, line: EventDict) -> EventDict:
    """Everything as text, of which only a traceback has lines of its own; those are indented."""
    told = {
        "timestamp": time.strftime("%H:%M:%S", time.localtime(line.pop("timestamp").timestamp())),
        "level": line.pop("level").upper(),
        "logger": line.pop("logger"),
        "message": _printable(_text(line.pop("message")).rstrip()),
    }
    below = {name: _indented(line.pop(name)) for name in ("stack", "exception") if name in line}
    fields = {_printable(name): _shown(value) for name, value in line.items()}
    return {**told, **fields, **below}


def _printable(text: str) -> str:
    """The text in one line, without what a terminal would obey."""
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode() for char in text])


def _shown(value: object) -> str:
    """A field's value: text that could be taken for more than one word is quoted."""
    if isinstance(value, float) and 1e-6 <= value < 1e-4:
        return f"{value:f}"  # nobody reads 8.2e-05 as a time
    if not isinstance(value, str):
        return _printable(_text(value))
    text = _text(value)
    return text if text.isprintable() and text and not set(text) & {" ", '"', "'", "="} else repr(text)


def _indented(text: str) -> str:
    return "\n".join([f"    {_printable(line)}" for line in text.splitlines()])


def _console(*, colours: bool) -> ConsoleRenderer:
    styles = ConsoleRenderer.get_default_column_styles(colours)
    levels = ConsoleRenderer.get_default_level_styles(colours)

    def shown(style: str, postfix: str = "") -> KeyValueColumnFormatter:
        return KeyValueColumnFormatter(None, style, styles.reset, str, postfix=postfix)

    def level(key: str, value: object) -> str:  # noqa: ARG001 - it is called with names
        return f"{levels.get(str(value).lower(), '')}{value:<7}{styles.reset}"

    return ConsoleRenderer(
        sort_keys=False,
        columns=[
            Column("timestamp", shown(styles.timestamp)),
            Column("level", level),
            Column("logger", shown(styles.logger_name, ":")),
            Column("message", shown("")),
            Column("", KeyValueColumnFormatter(styles.kv_key, styles.kv_value, styles.reset, str)),
        ],
    )
