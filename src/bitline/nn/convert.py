"""From a torch network to the same network on a macro, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial

from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitline import draws
from bitline.configuration import Frozen
from bitline.macro import AnyGradient, Macro, Site, Ste
from bitline.macro.placement import Reload
from bitline.nn.attention import MultiheadAttention, padded_encoders
from bitline.nn.cim import CimLayer
from bitline.nn.die import OnSilicon, Silicon
from bitline.nn.folding import fold_batch_norm
from bitline.nn.layers import LAYERS
from bitline.nn.model import parts
from bitline.nn.norms import NORMS, AnalogNorm
from bitline.nn.patterns import all_match, matches
from bitline.nn.quantizer import Quantizer
from bitline.nn.quantizers import AnyQuantizer, Lsq, Xnor
from bitline.nn.ranges import ConverterRange
from bitline.nn.side import SidePath
from bitline.nn.transposed import TransposedLinear, stored_transposed

STE = Ste()


class Mapped(Frozen):
    """Where one layer sits: tiles and work, or why it stayed digital."""

    layer: str
    kind: str = Field(description="class of the layer, with its shape")
    macro: str | None = Field(description="null: the layer stayed digital")
    plan: str | None = None
    tiles: int = 0
    arrays: int = 0
    utilisation: float = Field(default=0.0, description="share of the cells of its arrays that hold a weight")
    conversions: int = Field(
        default=0, description="analog-to-digital conversions for one sample; 0 until one was seen"
    )
    why: str = Field(default="", description="why the layer stayed digital, or why it got this plan")


def convert(
    net: nn.Module,
    macro: Macro | Mapping[str, Macro],
    *,
    skip: Sequence[str] = (),
    inputs: AnyQuantizer | None = None,
    weights: AnyQuantizer | None = None,
    gradient: AnyGradient = STE,
    fold_bn: bool = False,
    inplace: bool = False,
    plan: str | None = None,
) -> nn.Module:
    """Put a network's linear layers and convolutions on a macro, Hugging Face's ``Conv1D`` among them.

    ``macro``: one for all, or by dotted-name pattern (``"layers.*.conv?"``; the first that matches counts). ``skip``:
    patterns of layers that stay digital. Batch norms go onto a macro that says ``norm``. ``inputs`` and ``weights``:
    quantizers where the macro has digits; default ``Lsq``. ``fold_bn``: first fold each batch norm into the convolution
    before it. ``inplace``: change ``net`` itself and keep its parameters; otherwise a copy is made. ``plan``: force a
    plan. Raises ValueError naming a pattern that matches nothing, or a layer that the macro cannot hold; ``net`` is
    then unchanged. ``restore`` undoes it.
    """
    if isinstance(skip, str):
        raise ValueError(f"skip = {skip!r}: a list of patterns is expected, such as [{skip!r}]")
    by_pattern = {"*": macro} if isinstance(macro, Macro) else dict(macro)
    model = net if inplace else copy.deepcopy(net)
    if any(isinstance(module, CimLayer) for module in model.modules()):
        raise ValueError("this network is already on a macro: restore it first")
    macro_of = partial(_chosen, by_pattern)
    named = _candidates(model, macro_of)
    all_match(skip, named, "skip: ")
    if not isinstance(macro, Macro):
        all_match(list(by_pattern), named)
    shared, first = Silicon(), 0
    replaced: list[tuple[str, nn.Module, OnSilicon]] = []
    owners: dict[int, OnSilicon] = {}
    for name, module in named.items():
        chosen = None if matches(name, skip) else macro_of(name)
        if chosen is None:
            continue
        if id(module) in owners:
            raise ValueError(
                f"{name} is the same module as {owners[id(module)].site.name}: a layer has one place on silicon"
            )
        part: OnSilicon
        if isinstance(module, _BatchNorm):
            part = AnalogNorm.of(module, chosen, Site(name), shared)
        else:
            pool = chosen.placement.arrays if isinstance(chosen.placement, Reload) else None
            part = _layer(module, chosen, Site(name, first, pool), shared, gradient, inputs, weights, plan)
            if pool:
                first += chosen.layout(*part.matrix_shape).arrays
        owners[id(module)] = part
        replaced.append((name, module, part))
    if not any(isinstance(part, CimLayer) for part in owners.values()):
        if not named:
            raise ValueError("no layer was converted: the network has no linear layer or convolution")
        why = f"skip = {list(skip)} leaves out all there are" if skip else "no pattern of `macro` matches one"
        raise ValueError(f"no layer was converted: {why}: {', '.join(named)}")
    if fold_bn:  # only now that everything fits: it changes the network
        fold_batch_norm(model)
        left = {id(module) for module in model.modules()}  # a norm that was folded is gone
        replaced = [one for one in replaced if id(one[1]) in left or isinstance(one[2], CimLayer)]
        for _, module, part in replaced:
            part._parameters.update(module._parameters)
            part.renew()
    for module in [m for m in model.modules() if type(m) is nn.MultiheadAttention]:
        model = _replace(model, module, MultiheadAttention.of(module))
    padded_encoders(model, True)
    for name, _, part in replaced:
        model = _put(model, name, part)
    object.__setattr__(model, "fingerprint", fingerprint(model))
    return model


def digital(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """The network with torch layers in place of those on a macro; attention keeps projections of its own.

    Raises ValueError for layers with side paths, which have no place in a torch layer.
    """
    for name, part in parts(model).items():
        if isinstance(part, CimLayer) and part.side is not None:
            raise ValueError(
                f"{name} has a side path, which a torch layer has no place for: bitline.compensate.remove(model) first"
            )
    model = model if inplace else copy.deepcopy(model)
    for name, part in parts(model).items():
        model = _put(model, name, _plain(part))
    return model


def restore(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """The plain torch network again, with the weights as they are now."""
    model = digital(model, inplace=inplace)
    for module in [m for m in model.modules() if isinstance(m, MultiheadAttention | TransposedLinear)]:
        model = _replace(model, module, module.restored())
    padded_encoders(model, False)
    if hasattr(model, "fingerprint"):
        object.__delattr__(model, "fingerprint")
    return model


def fingerprint(model: nn.Module) -> str:
    """A hash of which layer sits on which macro: checkpoints refuse to load across it."""
    text = "|".join(f"{name} {layer.design.fingerprint}" for name, layer in parts(model).items())
    return f"{draws.key(text) & (2**64 - 1):016x}"


def mapping(model: nn.Module) -> tuple[Mapped, ...]:
    """What was mapped and what stayed digital, in the order of the network."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, CimLayer):
            inputs, outputs, groups = module.matrix_shape
            row = module.offsets
            layout = module.macro.layout(inputs + (row is not None), outputs, groups)
            found.append(
                Mapped(
                    layer=name,
                    kind=_kind(module),
                    macro=module.macro.name,
                    plan=module.plan.name,
                    tiles=layout.groups * layout.tiles,
                    arrays=layout.arrays,
                    utilisation=layout.utilisation,
                    conversions=module.conversions,
                    why=module.plan.why + (f"; bias in row {inputs}, of amplitude {row.told}" if row else ""),
                )
            )
        elif isinstance(module, SidePath):
            found.append(Mapped(layer=name, kind=type(module).__name__, macro=None, why="a side path"))
        elif isinstance(module, AnalogNorm):
            why = f"depthwise 1×1, shifts in a row of amplitude {module.row.told}"
            found.append(Mapped(layer=name, kind=_kind(module), macro=module.macro.name, plan="folded", why=why))
        elif type(module) in LAYERS or stored_transposed(module):
            found.append(Mapped(layer=name, kind=_kind(module), macro=None, why="skipped by pattern"))
        elif (
            not isinstance(module, Quantizer | ConverterRange)
            and next(module.parameters(recurse=False), None) is not None
        ):
            found.append(
                Mapped(
                    layer=name,
                    kind=type(module).__name__,
                    macro=None,
                    why="not a Linear, Conv1d, Conv2d or Conv3d itself",
                )
            )
    return tuple(found)


def _kind(module: nn.Module) -> str:
    name = type(module).__name__
    shape = (module.num_features,) if isinstance(module, AnalogNorm) else module._parameters["weight"].shape  # type: ignore[union-attr]
    return f"{name} {'×'.join(map(str, shape))}"


def _chosen(by_pattern: Mapping[str, Macro], name: str) -> Macro | None:
    return next((macro for pattern, macro in by_pattern.items() if fnmatchcase(name, pattern)), None)


def _candidates(model: nn.Module, macro_of: Callable[[str], Macro | None]) -> dict[str, nn.Module]:
    """Layers that can sit on a macro by dotted name; an attention layer stands for its four projections, and a
    linear layer for one that is stored transposed. Batch norms with running statistics, where their macro has a place
    for them."""
    named: dict[str, nn.Module] = {}
    linears: dict[nn.Module, TransposedLinear] = {}
    attentions: dict[nn.Module, dict[str, nn.Linear]] = {}  # one that occurs twice has the same projections twice
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) is nn.MultiheadAttention:
            if module not in attentions:
                attentions[module] = MultiheadAttention.projections(module)
            named |= {f"{name}.{part}".lstrip("."): linear for part, linear in attentions[module].items()}
        elif stored_transposed(module):
            if module not in linears:
                linears[module] = TransposedLinear.of(module)
            named[name] = linears[module]
        elif type(module) in LAYERS:
            named[name] = module
        elif type(module) in NORMS and module._buffers.get("running_mean") is not None:
            macro = macro_of(name)
            if macro is not None and macro.norm is not None:
                named[name] = module
    return named


def _layer(
    module: nn.Module,
    macro: Macro,
    site: Site,
    shared: Silicon,
    gradient: AnyGradient,
    inputs: AnyQuantizer | None,
    weights: AnyQuantizer | None,
    plan: str | None,
) -> CimLayer:
    """The layer on its macro, sharing the module's parameters."""
    kind = LAYERS[type(module)]
    layer = kind.__new__(kind)
    nn.Module.__init__(layer)
    layer.__dict__.update(
        {k: v for k, v in module.__dict__.items() if k not in ("_modules", "_parameters", "_buffers")}
    )
    layer._parameters = dict(module._parameters)
    input_quantizer = weight_quantizer = None
    scheme = macro.inputs
    if scheme is not None:
        input_quantizer = (inputs or Lsq()).build(scheme.low, scheme.high, role="inputs", step=scheme.stride)
        input_quantizer.name = site.name
    if macro.weights is not None:
        stored = macro.weights
        binary = (stored.low, stored.high, stored.stride) == (-1, 1, 2)
        config = weights or (Xnor() if binary else Lsq())
        outputs = module._parameters["weight"].shape[0]  # type: ignore[union-attr]
        weight_quantizer = config.build(stored.low, stored.high, role="weights", step=stored.stride, channels=outputs)
        weight_quantizer.name = site.name
    try:
        layer.attach(macro, site, shared, gradient, input_quantizer, weight_quantizer, plan)
    except ValueError as error:
        raise ValueError(f"{site.name} ({_kind(module)}) does not fit macro {macro.name}: {error}") from None
    return layer


def _plain(layer: OnSilicon) -> nn.Module:
    """The torch module with this part's parameters."""
    if isinstance(layer, AnalogNorm):
        return layer.restored()
    kind = next(plain for plain, own in LAYERS.items() if type(layer) is own)
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    own = {"training", "_reversed_padding_repeated_twice", "transposed", "output_padding"}
    template = own.union(kind.__constants__)  # type: ignore[attr-defined]
    module.__dict__.update({k: v for k, v in layer.__dict__.items() if k in template})
    module._parameters = dict(layer._parameters)
    return module


def _put(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """The model with ``module`` at ``name``; at the empty name it is the module."""
    if not name:
        return module
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
    return model


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """The model with ``new`` wherever ``old`` is."""
    for parent in list(model.modules()):
        for leaf, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, leaf, new)
    return new if model is old else model
