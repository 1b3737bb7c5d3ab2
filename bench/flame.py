"""`python -m bench.flame`: where the fast lane spends its time, as a flame graph that py-spy draws under load.

py-spy looks into the running service from outside, which some systems allow to an administrator only; it says so.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from bench.__main__ import RESULTS
from bench.bodies import ONE_ROW
from bench.contenders import CONTENDERS
from bench.drivers import DriverError, Drivers, Load, Shot
from bench.processes import BIN, ProcessError, output_of, run
from bench.stage import set_up

SAMPLES_PER_SECOND = 250
_WARM_SECONDS = 2
_DRAWING_SECONDS = 60

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    contender: Annotated[str, typer.Option(help="Which server; see bench/contenders.py.")] = "headrace",
    connections: Annotated[int, typer.Option(min=1, help="Connections, each with one row at a time.")] = 64,
    seconds: Annotated[int, typer.Option(min=1, help="How long to look.")] = 10,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Where the graph goes.", show_default=False)] = RESULTS,
) -> None:
    """Draw a flame graph of a server under load."""
    if contender not in CONTENDERS or not CONTENDERS[contender].serves:
        raise typer.BadParameter(f"no server {contender}")
    results.mkdir(parents=True, exist_ok=True)
    graph = results.absolute() / f"flame-{contender}-{connections}.svg"
    try:
        load = run(_record(contender, connections, seconds, graph))
    except (ProcessError, DriverError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{graph}\n{load.per_second:,.0f} requests/s while it was recorded, which slows them down")


async def _record(contender: str, connections: int, seconds: int, graph: Path) -> Load:
    async with set_up([contender], many_tables=False) as stage:
        server = stage.servers[contender]
        body = stage.folder / "body"
        body.write_bytes(ONE_ROW.encode())
        shot = Shot((server.url("events"),), body, ONE_ROW.content_type, connections, seconds + 2 * _WARM_SECONDS)
        command = [str(BIN / "py-spy"), "record", "--pid", str(server.pid), "--output", str(graph)]
        command += ["--duration", str(seconds), "--rate", str(SAMPLES_PER_SECOND)]
        load = asyncio.create_task(Drivers().maximum(shot))
        try:
            await asyncio.sleep(_WARM_SECONDS)
            await output_of(command, seconds + _DRAWING_SECONDS)
            return await load
        finally:
            load.cancel()


if __name__ == "__main__":
    app()
