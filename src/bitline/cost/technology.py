"""What a count costs: a technology's energies, cycle and areas, as written in YAML.

A figure that nobody published for your circuit has no default: the term is absent until you give it, and tables say
that it is. Frozen; SI units.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError

from bitline.configuration import Value, Written, explain, from_yaml, near
from bitline.cost.adc import AnyAdcEnergy, Murmann, Sar
from bitline.devices import Cell
from bitline.units import Farads, Joules, Metres, Seconds, Volts

FOLDER = Path(__file__).parent / "technologies"


class Driver(Value):
    """The DAC of a word line, C · bits · V² a drive, nothing for a digit of one bit, which a gate drives.

    C = 50 fF: the model of Houshmand, Sun & Verhelst (arXiv 2305.18335) as ZigZag-IMC has it.
    """

    farads: Farads = Field(default=50e-15, gt=0, le=1e-9, description="switched a bit")
    volts: Volts = Field(gt=0, le=5, description="supply")

    def joules(self, bits: int) -> float:
        """Energy of driving one word line with a digit of ``bits``, J."""
        return self.farads * bits * self.volts**2 if bits > 1 else 0.0


class SwitchedCell(Value):
    """A cell that a driven row reads costs the same whatever it holds: charge on bit line or capacitor, C V ΔV."""

    kind: Literal["switched"] = "switched"
    joules: Joules = Field(gt=0, le=1e-9, description="energy of a cell whose row is driven, J")

    def read(self, cell: Cell | None, where: str) -> float:
        """Energy of one cell at one read, J."""
        return self.joules


class OhmicCell(Value):
    """A conductance under a voltage for a while, V² · G · t (Ohm's law), at the middle of the macro's own range."""

    kind: Literal["ohmic"] = "ohmic"
    volts: Volts = Field(gt=0, le=5, description="read voltage")
    pulse: Seconds = Field(gt=0, le=1e-3, description="duration of a read of one digit")

    def read(self, cell: Cell | None, where: str) -> float:
        """Energy of one cell at one read, J; raises ValueError where the macro has no conductances."""
        if cell is None or cell.g_max is None:
            raise ValueError(f"{where}: `array: ohmic` needs conductances: give cell.g_min and cell.g_max")
        return self.volts**2 * self.pulse * ((cell.g_min or 0.0) + cell.g_max) / 2


AnyArrayEnergy = Annotated[SwitchedCell | OhmicCell, Field(discriminator="kind")]


class Digital(Value):
    """Adders and multipliers: a figure a bit, and a bit², at a node and supply, scaled as C V² with dimensions.

    Defaults: Horowitz, ISSCC 2014, Fig. 1.1.9, 45 nm, 0.9 V: an 8-bit addition 30 fJ (3.75 fJ a bit; the 32-bit one has
    3.1), an 8-bit multiplication 0.2 pJ (3.1 fJ a bit²; the 32-bit one has 3.0). Scaling: Dennard et al., JSSC 1974.
    """

    add: Joules = Field(default=3.75e-15, gt=0, le=1e-9, description="energy of an addition, J a bit, 45 nm, 0.9 V")
    multiply: Joules = Field(default=3.125e-15, gt=0, le=1e-9, description="of a multiplication, J a bit²; likewise")
    node: Metres = Field(default=45e-9, ge=16e-9, le=180e-9, description="feature size")
    volts: Volts = Field(default=0.9, ge=0.4, le=2, description="supply")

    @property
    def scale(self) -> float:
        """Energy against that at 45 nm and 0.9 V."""
        return self.node / 45e-9 * (self.volts / 0.9) ** 2

    def addition(self, bits: int) -> float:
        """Energy of an addition, J."""
        return self.add * bits * self.scale

    def multiplication(self, bits: int, by: int) -> float:
        """Energy of a product of ``bits`` and ``by`` bits, J."""
        return self.multiply * bits * by * self.scale

    def mac(self, inputs: int, weights: int, terms: int) -> float:
        """Energy of one multiply–accumulate of a sum of ``terms``, J."""
        width = inputs + weights + max(1, terms - 1).bit_length()
        return self.multiplication(inputs, weights) + self.addition(width)


class Buffer(Value):
    """Memory that inputs come from and outputs go to: 10 pJ for 64 bits of 8 KiB (Horowitz, ISSCC 2014; 45 nm)."""

    bit: Joules = Field(default=10e-12 / 64, gt=0, le=1e-9, description="energy of a bit read or written, J")


class Write(Value):
    """Writing the array, which a macro with `placement: reload` does as the network runs."""

    cell: Joules = Field(gt=0, le=1e-6, description="energy of writing one cell, verification included, J")
    row: Seconds = Field(gt=0, le=1, description="time to write one row of an array")


class Areas(Value):
    """What silicon takes; arrays and their converters alone."""

    cell: float = Field(gt=0, le=1e-9, description="m²")
    converter: float = Field(gt=0, le=1e-4, description="m²")
    row: float = Field(default=0.0, ge=0, le=1e-6, description="driver of a word line, m²")


class Technology(Written, Value):
    """Energies, cycle and areas. Absent terms are not counted, and said not to be."""

    name: str
    source: str = Field(default="", description="where the figures come from")
    cycle: Seconds = Field(
        gt=0, le=1e-3, description="of one conversion: a converter's period, rows driven and settled in it"
    )
    adc: tuple[AnyAdcEnergy, ...] = Field(
        default=(Murmann(), Sar()), min_length=1, description="laws for the converters, side by side"
    )
    driver: Driver | None = None
    array: AnyArrayEnergy | None = None
    digital: Digital | None = None
    buffer: Buffer | None = None
    write: Write | None = None
    areas: Areas | None = None
    digital_bits: int = Field(default=8, ge=1, le=32, description="of weights and inputs of layers that stay digital")
    scale_bits: int = Field(default=16, ge=1, le=32, description="of the factor that an output is requantised by")

    @staticmethod
    def load(name: Technology | str | Path) -> Technology:
        """One that comes with the library, by name, or a YAML file; raises ValueError saying what is wrong in it.

        One that is there already stays as it is.
        """
        if isinstance(name, Technology):
            return name
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            path = FOLDER / f"{name}.yaml"
            if not path.exists():
                there = sorted(one.stem for one in FOLDER.glob("*.yaml"))
                raise ValueError(
                    f"no technology {str(name)!r}; {near(name, there)}there are: {', '.join(there)}; "
                    "or give the path of a .yaml file"
                )
        try:
            return Technology.model_validate(from_yaml(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ValueError(f"technology file {path}: {error.strerror or error}") from None
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}") from None
        except ValidationError as error:
            raise ValueError(explain(error, Technology, path)) from None
