"""The subcommand `sim`: scenarios and evaluations of the shipped policies. Registered here because it runs things; loads its extra late."""

from __future__ import annotations

import json as to_json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from bastide.cli.context import JsonOption
from bastide.cli.show import err, out, table
from bastide.domain.errors import BastideError, InvalidRequest, Unsupported
from bastide.domain.units import format_count

if TYPE_CHECKING:
    from bastide.sim.evaluate.catalog import Evaluation


class _ScenarioOrCommand(TyperGroup):
    """`bastide sim FILE` means `bastide sim run FILE`: what is no subcommand is a scenario, or an option of its run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            word = Path(args[0])
            if not (ctx.resilient_parsing or args[0].startswith("-") or word.suffix or word.exists()):
                raise InvalidRequest(
                    f"there is no file {word}, and no subcommand of that name; there are: {', '.join(self.commands)}"
                )
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["SCENARIO.yaml [OPTIONS] | COMMAND"]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        run = self.commands["run"]
        with formatter.section("Options of a run"):
            options = [one for one in run.get_params(ctx) if one.param_type_name == "option" and one.name != "help"]
            formatter.write_dl([record for one in options if (record := one.get_help_record(ctx))])
        super().format_commands(ctx, formatter)


sim_app = typer.Typer(
    cls=_ScenarioOrCommand,
    help="Simulate a fleet: `bastide sim SCENARIO.yaml`. Or evaluate the policies on public traces. See docs/simulate.md.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    app.add_typer(sim_app, name="sim")


def _lacks(error: ImportError) -> BastideError:
    return Unsupported(f"simulating needs {error.name}: pip install 'bastide[sim]'")


@sim_app.command("run")
def run(
    scenario: Annotated[Path, typer.Argument(help="A scenario file; see docs/simulate.md.", metavar="SCENARIO.yaml")],
    compare: Annotated[
        list[str] | None, typer.Option(help="Run this policy too, such as always-on; may be repeated.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed than the scenario's.")] = None,
    size: Annotated[
        bool, typer.Option("--size", help="Find the fewest nodes that keep 99 % of all requests in time.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write everything here as JSON; - for the terminal.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write tables into this directory.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report that needs nothing from outside.")] = None,
) -> None:
    """What a fleet would do on this traffic, with these policies, this many GPUs, these failures."""
    try:
        from bastide.sim.report import export
        from bastide.sim.report.html import page
        from bastide.sim.report.summary import summary
        from bastide.sim.run import run as simulate
        from bastide.sim.scenario import read
        from bastide.sim.sizing import fewest
    except ImportError as error:
        raise _lacks(error) from None
    piped = str(json) == "-"
    export.check(scenario, {"--html": html, "--json": None if piped else json}, parquet)
    try:
        found, sized = read(scenario), None
        if size:
            sized = fewest(found, seed, lambda said: err.print(said, style="bright_black"))
            found = sized.scenario
        results = simulate(
            found, compare or (), seed, lambda name: err.print(f"simulating {name} …", style="bright_black")
        )
    except BastideError as error:
        error.file = getattr(error, "file", str(scenario))  # type: ignore[attr-defined]
        error.after = "nothing was simulated"  # type: ignore[attr-defined]
        raise
    if not piped:
        out.print(summary(results, sized))
    if html is not None:
        export.write_text(page(results), html)
    if parquet is not None:
        export.write_parquet(results, parquet)
    if json is not None and not piped:
        export.write_json(results, json, sized)
    if piped:
        print(to_json.dumps(export.plain(results, sized)))
        return
    for path in (html, parquet, json):
        if path is not None:
            err.print(f"written: {path}", style="bright_black")


@sim_app.command()
def evaluate(
    name: Annotated[str, typer.Argument(help="Which evaluation, such as E1.", metavar="EVALUATION")],
    data: Annotated[Path | None, typer.Option(help="Directory with the public traces.")] = None,
    workload: Annotated[list[str] | None, typer.Option(help="Only this workload or trace; may be repeated.")] = None,
    policy: Annotated[list[str] | None, typer.Option(help="Only this policy; may be repeated.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Such as 42-51, of what is drawn.")] = None,
    tiles: Annotated[int | None, typer.Option(min=1, max=100, help="E1: the fleet this many times over.")] = None,
    json: JsonOption = False,
) -> None:
    """Run the shipped policies beside published ones on public traces."""
    try:
        from bastide.sim.evaluate.catalog import Ask, evaluation, parse_seeds, unused
    except ImportError as error:
        raise _lacks(error) from None
    chosen = evaluation(name)
    for note in unused(chosen, policy or (), data=data is not None, seeds=seeds is not None, tiles=tiles is not None):
        err.print(note, style="yellow")
    if data is None and chosen.reads:
        raise InvalidRequest(f"{name} reads public traces; name their directory with `--data DIR`")
    wanted = parse_seeds(seeds) if seeds is not None else chosen.seeds
    rows: list[dict[str, Any]] = []
    interrupted = False
    try:
        for row in chosen.rows(Ask(data or Path(), workload or (), policy or (), wanted, tiles or 1)):
            rows.append(row)
            if json:
                print(to_json.dumps(row), flush=True)
            else:
                err.print(f"{row[chosen.group]} {row['policy']} seed {row['seed']}", style="bright_black")
    except KeyboardInterrupt:
        interrupted = True
    finally:  # a trace that is torn half-way takes nothing of what was found
        if rows and not json:
            _show_rows(chosen, rows)
    if interrupted:
        err.print(f"interrupted after {format_count(len(rows), 'row')}: not all that was asked for", style="yellow")
        raise typer.Exit(130)


def _show_rows(chosen: Evaluation, rows: list[dict[str, Any]]) -> None:
    from bastide.sim.evaluate.catalog import summary

    shown = table(chosen.group.upper(), "POLICY", "ROWS", *chosen.shown)
    for group, name_of_policy, count, figures in summary(rows, chosen.group, chosen.shown):
        cells = [f"{figures[f][0]:.4g} ± {figures[f][1]:.2g}" if f in figures else "" for f in chosen.shown]
        shown.add_row(group, name_of_policy, str(count), *cells)
    out.print(shown)
