"""A network: how it sits on its macro, verified on its circuit, exported to a board."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from bitline.cli.circuits import beside
from bitline.cli.options import AsJson, Changes, File, Ngspice, Out, Plan, folder_of, loaded, method_of, walk_of
from bitline.cli.telling import console, errors, say, terminable


def convert(file: File, changes: Changes = None, as_json: AsJson = False, plan: Plan = None) -> None:
    """Show how a network sits on its macro: tiles, utilisation, conversions, plans; what stays digital and why."""
    import torch

    from bitline import nn
    from bitline.report.tables import mapping_table

    experiment = loaded(file, changes, plan)
    sample = experiment.data.set.test()[:1].images.float()
    found: list[nn.Mapped] = []
    for macro in experiment.macros:
        model = experiment.place(experiment.network.build(experiment.seed).eval(), macro)
        with torch.no_grad():
            nn.walk(model, [sample])
        rows = nn.mapping(model)
        found += rows
        if not as_json:
            console.print(mapping_table(rows))
    if as_json:
        typer.echo(json.dumps([row.model_dump() for row in found], indent=2))


def ranges(
    file: File,
    method: Annotated[
        str | None, typer.Option("--method", help="kind or title of the one looked at; absent: untrained")
    ] = None,
    out: Out = None,
    images: Annotated[int, typer.Option("--images", min=1, help="of the test set, that reach the layers")] = 64,
    bits: Annotated[
        int | None, typer.Option("--bits", min=1, max=16, help="of the inputs' codes; absent: the macro's")
    ] = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="SVG file to draw, a panel a layer")] = None,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Show what each layer's input range costs: rounding in a wide one against clipping in a narrow one, with a lower
    and an upper bound (E-PACT) and with an upper one (PACT), beside the range calibrated, or learned by --method.

    Example: `bitline ranges demo --method error_aware --picture ranges.svg`
    """
    from bitline import nn
    from bitline.files import write_atomic
    from bitline.report.ranges import range_picture
    from bitline.report.tables import ranges_table

    experiment = loaded(file, changes)
    chosen = method_of(experiment, method) if method else None
    walk = walk_of(experiment, folder_of(file, out), errors if as_json else console)
    net, some = walk.float_network(), walk.testing[:images].images.float()
    for macro in experiment.macros:
        model = walk.converted(net, macro)
        if chosen is not None:
            model = walk.trained(model, macro, chosen)
        found = nn.input_ranges(model, [some.to(walk.device)], bits=bits)
        if as_json:
            typer.echo(json.dumps([one.dump() for one in found], indent=2))
        else:
            console.print(ranges_table(found))
        if picture is not None:
            several = f"-{macro.name}" if len(experiment.macros) > 1 else ""
            write_atomic(picture.with_stem(picture.stem + several), range_picture(found, f"Input ranges, {macro.name}"))


def cost(
    file: File,
    technology: Annotated[
        str | None,
        typer.Option("--technology", help="what counts cost: a name, or a YAML file; absent: the experiment's"),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="images between two writes of a reloaded array")] = 1,
    zero_skip: Annotated[
        int | None,
        typer.Option("--zero-skip", min=1, help="skip what is zero, measured on so many test images; absent: nothing"),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="kind or title of a method with side paths, which count; absent: none"),
    ] = None,
    out: Out = None,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Show what an inference costs: energy by term under several ADC models, latency, area, TOPS/W; and what the side
    paths of a method add.

    Example: `bitline cost examples/resnet20-cifar10.yaml --set macro=generic-8t-sram`
    """
    from bitline import cost as costs
    from bitline.compensate import sides
    from bitline.compensate.centre import fit
    from bitline.methods import OnMacro
    from bitline.report.costs import cost_tables, overheads_table

    experiment = loaded(file, changes)
    paths = method_of(experiment, method) if method else None
    if paths is not None and not (isinstance(paths, OnMacro) and paths.has_paths):
        raise ValueError(f"--method {method}: it has no side paths; what others do to weights costs nothing")
    chosen = costs.Technology.load(technology or experiment.technology)
    walk = walk_of(experiment, folder_of(file, out), errors if as_json else console) if zero_skip else None
    sample = experiment.data.set.test()[:1].images.float()
    found: list[costs.Cost] = []
    beside: list[tuple[costs.SideCost, ...]] = []
    for macro in experiment.macros:
        activity = None
        if walk is None:
            model = experiment.place(experiment.network.build(experiment.seed).eval(), macro)
        else:
            model = walk.converted(walk.float_network(), macro)
            if paths is not None and paths.centre is not None:
                fit(paths.put(model), list(islice(walk.plain(), walk.experiment.test.recalibration_batches)))
            device = next(model.parameters()).device
            images = walk.testing[:zero_skip].images.float()
            activity = costs.measure_activity(model, images.to(device))
        if paths is not None and not sides(model):
            paths.put(model)
        found.append(costs.cost(model.cpu(), sample, chosen, batch=batch, activity=activity))
        beside.append(costs.side_costs(model, sample, chosen, batch=batch) if paths is not None else ())
        if not as_json:
            for table in (*cost_tables(found[-1], macro.name), *(overheads_table(b) for b in beside[-1:] if b)):
                console.print(table)
    if as_json:
        told = [
            one.model_dump(mode="json") | ({"side_paths": [row.model_dump() for row in rows]} if rows else {})
            for one, rows in zip(found, beside, strict=True)
        ]
        typer.echo(json.dumps(told, indent=2))


def curvature(
    file: File,
    method: Annotated[
        str | None,
        typer.Option("--method", help="kind or title of the one looked at; absent: untrained"),
    ] = None,
    out: Out = None,
    batches: Annotated[int, typer.Option("--batches", min=1, help="of 64 training images")] = 8,
    probes: Annotated[int, typer.Option("--probes", min=2, help="random directions of a trace")] = 8,
    share: Annotated[float, typer.Option("--share", min=0, max=1, help="of all weights, to verify when written")] = 0.1,
    bits: Annotated[float, typer.Option("--bits", help="a weight on average, spent on layers")] = 4.0,
    write: Annotated[
        Path | None, typer.Option("--write", help="the experiment with these bits for each layer's weights, in YAML")
    ] = None,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Show the curvature of the loss layer by layer: which weights to verify as they are written, which layers deserve
    more bits. Writes `curvature.json` (or `curvature-METHOD.json`), and with `--write` an experiment to run.

    Example: `bitline curvature examples/digits-two-macros.yaml --set macro=rram-dac4.yaml --share 0.05`
    """
    from bitline.evaluate import priorities
    from bitline.experiment import slug
    from bitline.experiment.search import allocated, choosable, written
    from bitline.files import write_atomic
    from bitline.report.tables import priorities_table
    from bitline.search import Setting

    experiment, folder = loaded(file, changes), folder_of(file, out)
    macro = experiment.on()
    if write is not None:
        choosable(experiment, ("weight_bits",))
    walk = walk_of(experiment, folder, errors if as_json else console)
    model = walk.converted(walk.float_network(), macro)
    if method is not None:
        model = walk.trained(model, macro, method_of(experiment, method))
    found = priorities(
        model, walk.plain(), batches=batches, probes=probes, share=share, mean_bits=bits, seed=experiment.seed
    )
    path = folder / ("curvature.json" if method is None else f"curvature-{slug(method)}.json")
    found.save(path)
    if write is not None:
        own = allocated(experiment, {row.layer: Setting(weight_bits=row.bits) for row in found.layers})
        write_atomic(
            write, written(own.model_copy(update={"title": f"{own.title}, {bits:g} bits a weight by curvature"}))
        )
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    console.print(priorities_table(found))
    say(f"figures: {path}" + (f"   experiment: {write}" if write is not None else ""))


def verify(
    file: Annotated[Path, typer.Argument(help="an experiment in YAML, or `demo`")],
    circuit: Annotated[str, typer.Option("--circuit", help="a circuit in YAML, or the name of one with samples")],
    method: Annotated[
        str, typer.Option("--method", help="kind or title of the one whose network is verified")
    ] = "error_aware",
    samples: Annotated[
        Path | None,
        typer.Option("--samples", help="of the circuit, as `characterize --dice` wrote them; absent: shipped ones"),
    ] = None,
    out: Out = None,
    chips: Annotated[int, typer.Option("--chips", min=1, help="fresh dies of the behavioural model")] = 5,
    images: Annotated[int, typer.Option("--images", min=1, help="whose conversions are looked at")] = 64,
    conversions: Annotated[int, typer.Option("--conversions", min=8, help="of them, simulated in ngspice")] = 256,
    changes: Changes = None,
    as_json: AsJson = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="simulations at once")] = None,
    ngspice: Ngspice = "ngspice",
) -> None:
    """Verify a trained network on its circuit: on the behavioural model with dies it has never met, and its own
    conversions in ngspice, error rates by sum side by side.

    Takes the network trained in the folder, or trains it now. Writes `verify-METHOD.html` and `.json` there. Columns
    that meet before a conversion, such as pairs, are simulated one by one.

    Example: `bitline verify demo --circuit sram-8t-compact`
    """
    from bitline.circuits.spice import Circuit, Simulator
    from bitline.experiment import slug
    from bitline.flows import verify as verified
    from bitline.macro import shipped
    from bitline.report.tables import verification_tables
    from bitline.report.verification import sentence, write_verification
    from bitline.samples import Samples

    experiment = loaded(file, changes)
    macro, chosen, folder = experiment.on(), method_of(experiment, method), folder_of(file, out)
    at = Circuit.load(circuit)
    if samples is None:
        tables = [shipped(f"{at.name}{part}") for part in ("", "-dice")]
    else:
        tables = [Samples.load(samples), Samples.load(beside(samples, "dice"))]
    walk = walk_of(experiment, folder, errors if as_json else console)
    model = walk.trained(walk.converted(walk.float_network(), macro), macro, chosen)
    with terminable():
        found = verified(
            model,
            walk.source,
            at,
            *tables,
            method=chosen.title,
            simulator=Simulator(executable=ngspice, workers=workers, cache=folder / "spice"),
            chips=chips,
            images=images,
            conversions=conversions,
            seed=experiment.seed,
        )
    page, figures = (folder / f"verify-{slug(method)}.{ending}" for ending in ("html", "json"))
    found.save(figures)
    write_verification(found, page, " ".join(["bitline", *sys.argv[1:]]))
    if as_json:
        typer.echo(found.model_dump_json(indent=2, by_alias=True))
        return
    for table in verification_tables(found):
        console.print(table)
    console.print(sentence(found), markup=False)
    say(f"in the circuit {found.assumed}")
    say(f"ngspice: {found.simulator}")
    say(f"report: {page}   figures: {figures}")


def export(
    file: File,
    macro: Annotated[str | None, typer.Argument(help="name of one of its macros; absent: its only one")] = None,
    method: Annotated[str | None, typer.Option("--method", help="kind or title of the one exported")] = None,
    out: Out = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", help="folder to write; default: `bundle` in --out")] = None,
    arrays: Annotated[
        int | None, typer.Option("--arrays", min=1, help="arrays of the board; absent: one a tile")
    ] = None,
    images: Annotated[int, typer.Option("--images", min=0, help="test images that come with it, for replay")] = 600,
    samples: Annotated[
        Path | None, typer.Option("--samples", help="characterisation of this very board, to compare codes with")
    ] = None,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="batch norms with statistics of the macro, once for all chips")
    ] = False,
    changes: Changes = None,
) -> None:
    """Write a trained network as a deploy bundle: cell levels, scales, ranges, all a board and `lab replay` need.

    Trains what is not trained yet.

    Example: `bitline export examples/digits-two-macros.yaml generic-8t-sram --method error_aware`
    """
    from bitline import lab as bench
    from bitline.samples import Samples

    experiment = loaded(file, changes)
    design = experiment.on(macro)
    chosen = method_of(experiment, method) if method else experiment.methods[-1]
    folder = folder_of(file, out)
    walk = walk_of(experiment, folder)
    model = walk.trained(walk.converted(walk.float_network(), design), design, chosen)
    model = walk.remedies.recalibrated(model) if recalibrate else model
    some = walk.testing[:images]
    made = bench.export(
        model.cpu(),
        name=experiment.title,
        arrays=arrays,
        images=(some.images, some.labels) if images else None,
        samples=Samples.load(samples) if samples else None,
        provenance={"experiment": str(file), "method": chosen.kind}
        | ({"norms": "recalibrated"} if recalibrate else {}),
    )
    bench.save(made, bundle or folder / "bundle")
    tiles = sum(len(layer.tiles) for layer in made.record.layers)
    where = bundle or folder / "bundle"
    say(f"{where}: {tiles} tiles on {made.record.arrays} arrays")
