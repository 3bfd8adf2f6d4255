"""Integers to digits and back: the exact part of a compute-in-memory macro.

Inputs are driven digit by digit, one *pass* after another; weights are spread over cells, one *conversion* (column
read) a digit. A scheme says how a signed integer becomes non-negative digits and how the read-outs are added up again:

    x = Σ_p radix[p] · digit_p + constant
    w = Σ_c radix[c] · Σ_ℓ signs[c][ℓ] · level_{c,ℓ} + input_constant

so that Σ_k x_k w_k is a sum of column reads plus two digital corrections: ``constant`` · Σ_k w_k (known weights) and
``input_constant`` · Σ_k x_k (a digital sum of the input codes). Everything here is exact for 1 to 16 bits.

A row that is *off* has digit 0 in every pass and takes part in no correction. The code 0 of an offset input is *on*:
it is driven as the digits of 2^(bits-1).
"""

from bitline.encode.inputs import (
    BipolarInput,
    Input,
    InputScheme,
    OffsetInput,
    TwoPhaseInput,
    TwosComplementInput,
    UnsignedInput,
    Word,
    fields,
)
from bitline.encode.scheme import Bits, Scheme, cut
from bitline.encode.weights import (
    BinaryWeight,
    DifferentialWeight,
    OffsetWeight,
    TwosComplementWeight,
    UnsignedWeight,
    Weight,
    WeightScheme,
)

__all__ = [
    "BinaryWeight",
    "BipolarInput",
    "Bits",
    "DifferentialWeight",
    "Input",
    "InputScheme",
    "OffsetInput",
    "OffsetWeight",
    "Scheme",
    "TwoPhaseInput",
    "TwosComplementInput",
    "TwosComplementWeight",
    "UnsignedInput",
    "UnsignedWeight",
    "Weight",
    "WeightScheme",
    "Word",
    "cut",
    "fields",
]
