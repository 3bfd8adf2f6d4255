"""What each layer may be set to, and what each setting costs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bitline.cost import Cost, Technology, cost
from bitline.macro import Chip, Macro, program
from bitline.nn import CimLayer, converted_layers, moved
from bitline.search.setting import Setting, Settings
from bitline.search.space import Space


class Option(NamedTuple):
    """A setting that a layer can have; energies of one sample under each ADC law, J."""

    setting: Setting
    macro: Macro
    adc: tuple[float, ...]
    total: tuple[float, ...]


class Options(NamedTuple):
    """By layer: what it has, and what it may be set to."""

    laws: tuple[str, ...]
    own: dict[str, Option]
    layers: dict[str, tuple[Option, ...]]
    rest: tuple[float, ...]  # energy of what stayed digital under each law, J
    skipped: dict[str, str]  # settings that could not be, with their reason

    def of(self, layer: str, setting: Setting) -> Option:
        """The option of a layer with this setting; raises ValueError for one that is none."""
        for one in (self.own[layer], *self.layers[layer]):
            if one.setting == setting:
                return one
        raise ValueError(
            f"{layer}: {setting.title} is no choice: {', '.join(o.setting.title for o in self.layers[layer])}"
        )

    def macros(self, settings: Settings) -> dict[str, Macro]:
        """The macro of each layer."""
        return {layer: self.of(layer, setting).macro for layer, setting in settings.items()}

    def adc(self, settings: Settings) -> dict[str, float]:
        """ADC energy of one sample under each law, J."""
        found = [self.of(layer, setting).adc for layer, setting in settings.items()]
        return {law: sum(one[i] for one in found) for i, law in enumerate(self.laws)}

    def total(self, settings: Settings) -> dict[str, float]:
        """Energy of one sample, all terms there are, under each law, J."""
        found = [self.of(layer, setting).total for layer, setting in settings.items()]
        return {law: sum(one[i] for one in found) + self.rest[i] for i, law in enumerate(self.laws)}

    def uniform(self) -> list[dict[str, Setting]]:
        """The settings that all layers can have at once."""
        each = [{one.setting: None for one in some} for some in self.layers.values()]
        return [dict.fromkeys(self.layers, one) for one in each[0] if all(one in more for more in each[1:])]


def options(model: nn.Module, x: Tensor, space: Space, technology: Technology) -> Options:
    """What each layer of a converted model may be set to, priced for one sample ``x``.

    Combinations that a macro, a layer or an ADC law refuses are left out, and told with their reason. Raises ValueError
    where a layer is left without any, or where its own setting cannot be priced.
    """
    found = converted_layers(model)
    own = {name: (Setting.of(layer.design, space.knobs), layer.design) for name, layer in found.items()}
    priced = cost(model, x, technology)
    skipped: dict[str, str] = {}
    valid: dict[str, list[tuple[Setting, Macro]]] = {name: [] for name in found}
    for name, layer in found.items():
        for setting in space.settings():
            try:
                valid[name].append((setting, possible(layer, setting, technology)))
            except ValueError as error:
                skipped[f"{name}: {setting.title}"] = str(error)
        if not valid[name]:
            first = next(reason for place, reason in skipped.items() if place.startswith(f"{name}: "))
            raise ValueError(f"{name}: none of the choices is possible on macro {layer.design.name}: {first}")
    made: dict[str, list[Option]] = {name: [] for name in found}
    for i in range(max(map(len, valid.values()))):  # as many layers at once as there are
        here = {name: some[i] for name, some in valid.items() if i < len(some)}
        estimate = cost(moved(model, {name: macro for name, (_, macro) in here.items()}), x, technology)
        for name, (setting, macro) in here.items():
            made[name].append(_option(setting, macro, name, estimate))
    return Options(
        laws=tuple(one.adc for one in priced.estimates),
        own={name: _option(setting, macro, name, priced) for name, (setting, macro) in own.items()},
        layers={name: tuple(some) for name, some in made.items()},
        rest=tuple(_digital(priced, i) for i in range(len(priced.estimates))),
        skipped=skipped,
    )


def _option(setting: Setting, macro: Macro, layer: str, found: Cost) -> Option:
    at = next(i for i, one in enumerate(found.layers) if one.layer == layer)
    each = [estimate.layers[at] for estimate in found.estimates]
    return Option(setting, macro, tuple(one.adc for one in each), tuple(one.total for one in each))


def _digital(found: Cost, law: int) -> float:
    parts = zip(found.layers, found.estimates[law].layers, strict=True)
    return sum(energy.total for one, energy in parts if one.macro is None)


@torch.no_grad()
def possible(layer: CimLayer, setting: Setting, technology: Technology) -> Macro:
    """The layer's macro with a setting.

    Raises ValueError where there is no such macro, it cannot hold the layer, or a law has no price for its converters.
    """
    try:
        macro = setting.on(layer.design, layer.site.name)
    except ValidationError as error:
        raise ValueError(_reason(error)) from None
    inputs, outputs, groups = layer.matrix_shape
    macro.layout(inputs, outputs, groups)
    for quantizer, scheme in ((layer.input_quantizer, macro.inputs), (layer.weight_quantizer, macro.weights)):
        if quantizer is not None and scheme is not None:
            build = quantizer.config.build  # type: ignore[attr-defined]
            build(scheme.low, scheme.high, role=quantizer.role, step=scheme.stride, channels=outputs * groups)
    if macro.converter is not None:
        macro.converter.range.start(macro.converter, *macro.value_range)
        for law in technology.adc:
            law.joules(macro.converter.bits, 1 / technology.cycle)
    high = float(macro.weights.high) if macro.weights else 1.0
    program(torch.full((groups * outputs, 1), high), macro, Chip(0, 0), layer.site, groups=groups)
    return macro


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
