"""The form of log lines: for people, or a JSON object each; and nothing that is logged can break one."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.observing.logs import Format, dict_config, formatter

HEADRACE = str(Path(sys.executable).parent / "headrace")

_HOSTILE = "a\n10:00:00 ERROR   service: forged\r\x1b[2J\x9b\u2028\udc80"


class _Unprintable:
    def __repr__(self) -> str:
        raise ValueError


def _record(message: str, *args: object, exc_info: Any = None, **extra: object) -> logging.LogRecord:
    logger = logging.getLogger("service.observing.slow")
    return logger.makeRecord(logger.name, logging.WARNING, __file__, 1, message, args, exc_info, "function", extra)


def _json(record: logging.LogRecord) -> dict[str, Any]:
    line = formatter("json").format(record)
    assert line.isprintable(), line
    found: dict[str, Any] = json.loads(line)
    return found


def _console(record: logging.LogRecord) -> str:
    return formatter("console").format(record)


def _raised() -> Any:
    try:
        int(_HOSTILE)
    except ValueError as error:
        error.add_note(_HOSTILE)  # in int's own words it is quoted
        return sys.exc_info()


# -------------------------------------------------------------------- JSON


def test_a_json_line_has_the_usual_names() -> None:
    """Collectors look for them without being told."""
    record = _record("a request took %.1f s", 1.25, table="public.t", rows=3, seconds=1.25, kept=False, none=None)
    record.created = datetime(2026, 11, 21, 10, 0, 0, 123_456, UTC).timestamp()
    assert _json(record) == {
        "timestamp": "2026-11-21T10:00:00.123Z",
        "level": "warning",
        "logger": "service.observing.slow",
        "message": "a request took 1.2 s",
        "table": "public.t",
        "rows": 3,
        "seconds": 1.25,
        "kept": False,
        "none": None,
    }
    assert list(_json(record))[:4] == ["timestamp", "level", "logger", "message"]


def test_a_traceback_is_one_field() -> None:
    """A traceback in lines of its own is, for a collector, thirty messages without a level."""
    line = _json(_record("boom", exc_info=_raised()))
    assert line["message"] == "boom"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert "forged" in line["exception"]
    assert "exception" not in _json(_record("none", exc_info=(None, None, None)))


def test_a_stack_is_one_field() -> None:
    """Likewise, where somebody asks for it."""
    record = _record("here")
    record.stack_info = "Stack (most recent call last):\n  File"
    assert _json(record)["stack"] == record.stack_info


def test_any_field_can_be_logged() -> None:
    """A line that cannot be written is the one that would have explained the outage."""
    circle: list[object] = []
    circle.append(circle)
    line = _json(
        _record(
            _HOSTILE,
            large=2**70,
            nan=float("nan"),
            things={1, 2},
            error=ValueError("x"),
            nested={"a": [_Unprintable()], 5: "five"},
            circle=circle,
            half="\udc80",
            bad=_Unprintable(),
            when=datetime(2026, 1, 1, tzinfo=UTC),
        )
    )
    assert line["message"] == _HOSTILE.replace("\udc80", "\\udc80")
    assert (line["large"], line["nan"], sorted(line["things"])) == (2**70, None, [1, 2])
    assert (line["error"], line["nested"]) == ("ValueError('x')", {"a": ["<_Unprintable>"], "5": "five"})
    assert (line["circle"], line["half"], line["bad"]) == ("[[...]]", "\\udc80", "<_Unprintable>")
    assert line["when"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize("name", ["timestamp", "level", "logger", "event", "exception", "stack"])
@pytest.mark.parametrize("form", ["json", "console"])
def test_no_field_takes_the_place_of_what_each_line_has(name: str, form: Format) -> None:
    """Another library may call its field anything."""
    line = formatter(form).format(_record("the message", **{name: "x y"}))
    assert "the message" in line
    assert "service.observing.slow" in line
    assert "warning" in line.lower()
    assert f'"{name}_":"x y"' in line or f"{name}_='x y'" in line


def test_what_uvicorn_says_in_colours_is_not_said_twice() -> None:
    """It gives its message again, with escapes, as a field."""
    assert "color_message" not in _json(_record("m", color_message="\x1b[1mm"))


# -------------------------------------------------------------------- the console


def test_a_line_for_people_is_short() -> None:
    """Time, level, who, what; then the fields, in the order in which they were given."""
    record = _record(
        "a request took %.1f s",
        1.25,
        table="public.t",
        rows=3,
        where="a b",
        empty="",
        none=None,
        tables=["a", "b"],
        queue=8.2e-05,
    )
    line = _console(record)
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d WARNING service\.observing\.slow: a request took 1\.2 s "
        r"table=public\.t rows=3 where='a b' empty='' none=None tables=\['a', 'b'\] queue=0\.000082",
        line,
    )
    record.created = datetime(2026, 11, 21, 10, 11, 12).astimezone().timestamp()
    assert _console(record).startswith("10:11:12 ")
    info = logging.makeLogRecord({"name": "service.observing.slow", "levelname": "INFO", "msg": "m"})
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO    service\.observing\.slow: m", _console(info))


def test_nothing_forges_a_line_for_people() -> None:
    """What a client sends may come into any part of one: a name, a value, PostgreSQL's words, an error's."""
    record = _record("it says %s", _HOSTILE, value=_HOSTILE, bad=_Unprintable(), exc_info=_raised())
    record.__dict__[_HOSTILE] = 1
    first, *others = _console(record).splitlines()
    assert "it says a\\n10:00:00 ERROR   service: forged\\r\\x1b[2J\\x9b\\u2028\\udc80" in first
    assert "bad=<_Unprintable>" in first
    assert len(others) > 3
    assert all(line.startswith("    ") and line.isprintable() for line in others)
    assert first.isprintable()


# -------------------------------------------------------------------- colours


class _Terminal:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("", True), ("1", False)])
def test_colours_are_for_terminals(no_color: str | None, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """In a file they are noise; and some people cannot use them."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in _console(_record("m", a=1))
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys, "stderr", _Terminal())
    assert ("\x1b" in _console(_record("m", a=1))) == coloured
    assert "\x1b" not in formatter("json").format(_record("m", a=1))


# -------------------------------------------------------------------- in other programs


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    """Configuring it replaces the handlers of the whole process."""
    root = logging.getLogger()
    names = ("headrace.access", "uvicorn.error")
    before = root.handlers[:], root.level, [logging.getLogger(name).level for name in names]
    yield
    root.handlers[:], level, levels = before
    root.setLevel(level)
    for name, value in zip(names, levels, strict=True):
        logging.getLogger(name).setLevel(value)


@pytest.mark.usefixtures("_logging_as_before")
def test_other_programs_can_have_the_same_lines(capfd: pytest.CaptureFixture[str]) -> None:
    """Under gunicorn, or as a library, logging is theirs; one call, or one setting, makes it ours."""
    config = json.loads(json.dumps(dict_config("json", "warning")))  # uvicorn takes it as a file
    logging.config.dictConfig(config)
    logging.getLogger("app").info("no")
    logging.getLogger("app").warning("yes", extra={"a": 1})
    logging.getLogger("headrace.access").info("GET /livez 200")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["logger"], line["message"]) for line in lines] == [
        ("app", "yes"),
        ("headrace.access", "GET /livez 200"),
    ]
    assert lines[0]["a"] == 1


# -------------------------------------------------------------------- headrace serve


def _serve(folder: Path, **settings: str) -> tuple[str, str]:
    """What `headrace serve` prints, to stdout and stderr, if it is asked one thing and stopped."""
    arguments = ["serve", "--port", "0", "--dsn", "postgresql://127.0.0.1:1/nowhere"]
    environment = {**os.environ, "HEADRACE_ACCESS_LOG": "true", "HEADRACE_NOPE": "1", **settings}
    out, err = folder / "out", folder / "err"
    with (
        out.open("w") as to_out,
        err.open("w") as to_err,
        subprocess.Popen([HEADRACE, *arguments], env=environment, stdout=to_out, stderr=to_err) as child,
    ):
        while (match := re.search(r"listens on (http://[\d.:]+)\b", out.read_text() + err.read_text())) is None:
            assert child.poll() is None, err.read_text()
            time.sleep(0.01)
        answer = httpx2.get(f"{match[1]}/livez", headers={"x-request-id": "r-1"})
        child.terminate()
    assert (answer.status_code, child.returncode) == (200, 0)
    return out.read_text(), err.read_text()


def test_serve_writes_json_and_nothing_else(tmp_path: Path) -> None:
    """One line that is none, and the collector drops it or stops."""
    out, err = _serve(tmp_path, HEADRACE_LOG_FORMAT="json")
    assert out == ""
    lines = [json.loads(line) for line in err.splitlines()]
    assert "uvicorn.error" not in {line["logger"] for line in lines}, "it says again what we have said"
    messages = {line["message"]: line for line in lines}
    assert "HEADRACE_NOPE is not a setting and has no effect" in messages
    assert any(line.get("url", "").startswith("http://127.0.0.1:") for line in lines)
    access = messages["GET /livez 200"]
    assert (access["logger"], access["level"], access["request_id"]) == ("headrace.access", "info", "r-1")


def test_serve_writes_for_people_unless_told_otherwise(tmp_path: Path) -> None:
    """Who starts it by hand reads along. The access log has a switch of its own, whatever the level is."""
    out, err = _serve(tmp_path, HEADRACE_LOG_LEVEL="warning")
    assert "  docs  " in out
    assert re.search(r"^\d\d:\d\d:\d\d WARNING service: HEADRACE_NOPE is not a setting", err, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d INFO    headrace.access: GET /livez 200 client=127", err, re.MULTILINE)
    assert "uvicorn" not in err
