"""The wires of an array: what lies between a driver, the cells of its row, and the sense of a column.

    driver of row i                          cells (i, 0) … (i, C-1)
    V_i ──[driver]──[word_line]──●──[word_line]──●── … ──●  (open)              or, driven from both sides,
                                 │               │       │                      … ──●──[word_line]──[driver]── V_i
                                cell            cell    cell
                                 │               │       │
                        ●────────┼──────●────────┼───…   one node a cell on each bit line as well
                        │
                     [bit_line]     from row i to row i + 1, down to the last row R-1
                        ●
                        │
                     [bit_line]
                     [sense]
                        ⏚  virtual ground: what flows in here is sensed

Every cell owns the segment towards its driver and the segment towards its sense, one pitch each, so that the first
cell of a row is a segment away from the driver and the last row a segment away from the sense. The upper end of a bit
line, beyond row 0, is open.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bitline.configuration import Frozen
from bitline.units import Ohms

MOST = 1e9  # ohms: beyond that a wire is a break, which the solver is not made for


class Wires(Frozen):
    """Resistances of an array's wires, ohms; 0 is a wire without resistance, exactly.

    Rows are driven by sources of fixed resistance and columns sensed at virtual ground, so that the array is linear
    whatever the rows are driven with. A row that is off is held at 0 V by its driver. Static: charging and crosstalk
    are not in it.
    """

    word_line: Ohms = Field(default=0.0, ge=0, le=MOST, description="of one segment of a word line, a cell pitch")
    bit_line: Ohms = Field(default=0.0, ge=0, le=MOST, description="of one segment of a bit line, a cell pitch")
    driver: Ohms = Field(default=0.0, ge=0, le=MOST, description="of the source that drives a row, each if two do")
    sense: Ohms = Field(default=0.0, ge=0, le=MOST, description="between a column and the virtual ground of its sense")
    drive: Literal["one_side", "both_sides"] = Field(
        default="one_side", description="whether rows are driven at column 0 alone or at both ends"
    )
    refresh: int = Field(
        default=100, ge=1, description="in training, programmings of a layer from one exact solve to the next"
    )
