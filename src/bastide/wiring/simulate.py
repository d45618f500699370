"""The subcommand `sim`: evaluations of the shipped policies. Registered here because it runs things; loads its extra late."""

from __future__ import annotations

import json as to_json
from pathlib import Path
from typing import Annotated

import typer

from bastide.cli.context import JsonOption
from bastide.cli.show import err, out, table
from bastide.domain.errors import Unsupported

sim_app = typer.Typer(help="Simulate fleets and evaluate the policies.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(sim_app, name="sim")


@sim_app.command()
def evaluate(
    name: Annotated[str, typer.Argument(help="Which evaluation, such as E1.", metavar="EVALUATION")],
    data: Annotated[Path, typer.Option(help="Directory with the public traces.")],
    workload: Annotated[list[str] | None, typer.Option(help="Only this workload or trace; may be repeated.")] = None,
    policy: Annotated[list[str] | None, typer.Option(help="Only this policy; may be repeated.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Such as 42-51.")] = None,
    tiles: Annotated[int, typer.Option(min=1, max=100, help="E1: the fleet this many times over.")] = 1,
    json: JsonOption = False,
) -> None:
    """Run the shipped policies beside published ones on public traces."""
    try:
        from bastide.sim.evaluate.catalog import Ask, evaluation, parse_seeds, summary
    except ImportError as error:
        raise Unsupported(f"simulating needs {error.name}: pip install 'bastide[sim]'") from None
    chosen = evaluation(name)
    wanted = parse_seeds(seeds) if seeds is not None else chosen.seeds
    rows = []
    for row in chosen.rows(Ask(data, workload or (), policy or (), wanted, tiles)):
        rows.append(row)
        if json:
            print(to_json.dumps(row), flush=True)
        else:
            err.print(f"{row[chosen.group]} {row['policy']} seed {row['seed']}", style="bright_black")
    if json:
        return
    shown = table(chosen.group.upper(), "POLICY", "ROWS", *chosen.shown)
    for group, name_of_policy, count, figures in summary(rows, chosen.group, chosen.shown):
        cells = [f"{figures[f][0]:.4g} ± {figures[f][1]:.2g}" if f in figures else "" for f in chosen.shown]
        shown.add_row(group, name_of_policy, str(count), *cells)
    out.print(shown)
