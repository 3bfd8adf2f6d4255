"""The search of bits layer by layer."""

from __future__ import annotations

from typing import Annotated

import typer

from bitline.cli.options import AsJson, Changes, File, Fresh, Out, folder_of, loaded
from bitline.cli.telling import console, errors, say


def search(
    file: File,
    hold: Annotated[float | None, typer.Option("--hold", help="accuracy on chips to hold at least energy, %")] = None,
    lose: Annotated[
        float | None, typer.Option("--lose", help="instead: points below the macro as it is; default 1")
    ] = None,
    percentile: Annotated[
        bool, typer.Option("--percentile", help="hold it at the 5th percentile of chips, not at their mean")
    ] = False,
    law: Annotated[
        str | None, typer.Option("--law", help="ADC law that decides, by how it begins; absent: the technology's first")
    ] = None,
    images: Annotated[
        int, typer.Option("--images", min=1, help="that settings are chosen by, of the training set")
    ] = 500,
    out: Out = None,
    changes: Changes = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Find bits for each layer that save energy and hold an accuracy: of inputs, weights, cells and converters, and
    ranges of converters, from the experiment's `search`. They are chosen on images and dies that no test uses; what was
    chosen is then verified on those of the test.

    An interrupted search goes on where it stopped. Writes `search.json`, `search.csv`, `search.svg`, and
    `search.yaml`: the experiment with the winner's bits, for `bitline run`.

    Example: `bitline search examples/bits-lenet5.yaml --lose 1`
    """
    from bitline.experiment import SearchRun, clear, written
    from bitline.files import write_atomic
    from bitline.report.search import search_table, sentence, setting_table, verdict
    from bitline.search import Goal

    goal = Goal(
        hold=hold, lose=1.0 if hold is None and lose is None else lose, law=law, by="p5" if percentile else "mean"
    )
    experiment, folder = loaded(file, changes), folder_of(file, out)
    if fresh:
        clear(folder)
    voice = errors if as_json else console
    walk = SearchRun(experiment, folder, goal, lambda line: say(line, voice), voice.is_terminal, images=images)
    found = walk()
    if as_json:
        typer.echo(found.model_dump_json(indent=2, by_alias=True))
    else:
        console.print(search_table(found, law, goal.by))
        say(f"figures: {folder / 'search.json'}, {folder / 'search.csv'}   picture: {folder / 'search.svg'}")
    at_least = goal.at_least(found.baseline.accuracy("tested", goal.by))
    assert at_least is not None
    winner = found.cheapest(at_least, law, by=goal.by)
    write_atomic(folder / "search.yaml", written(walk.winner(winner.settings)))
    if not as_json:
        console.print(setting_table(found, winner))
        say(sentence(found, winner, at_least, law, goal.by))
        if found.verified is not None:
            say(verdict(found.verified))
        say(f"to go on with: bitline run {folder / 'search.yaml'}")
