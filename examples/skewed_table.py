"""The presets generic-skewed-sram and generic-pedestal-sram, made again: tables of a fabricated SRAM macro's kind.

    for name in generic-skewed-sram generic-pedestal-sram; do
        python examples/skewed_table.py $name > src/bitline/macro/presets/$name.yaml
    done

The macro of D-NAT (Lin et al., JETCAS 12(2), 2022) is measured, but its table is not public. What is: 128 codes, more
distortion at larger values, no Gaussian, and that VGG8 trained for the ideal macro falls to 14.17 % on it. The laws are
like that, each fixed before any network was trained on it: code = PEDESTAL + T · (1 - exp(-i/T)) + noise, as a bit
line that discharges, sigma = FLOOR + SPREAD · i/127 codes, skewed to smaller codes. The first is as noisy as macros
that give their converters little power; the second's noise is about that of a converter's steps (0.29 codes rms), as
designers size it, and its zero reads as code 4, with which a given VGG8 with ideal ranges falls to 13 %.
"""

import sys

import numpy as np
from scipy import stats

CODES = 128
T, SKEW = 64.0, -4.0
LAWS = {"generic-skewed-sram": (0.0, 0.4, 1.5), "generic-pedestal-sram": (4.0, 0.25, 0.5)}  # pedestal, floor, spread
DIGITS = 6


def table(pedestal: float, floor: float, spread: float) -> np.ndarray:
    """P(code | ideal code), rows that sum to 1 in ``DIGITS`` decimal digits."""
    ideal = np.arange(CODES)
    mean, sigma = pedestal + T * (1 - np.exp(-ideal / T)), floor + spread * ideal / (CODES - 1)
    shape = SKEW / np.sqrt(1 + SKEW**2)
    scale = sigma / np.sqrt(1 - 2 * shape**2 / np.pi)
    place = mean - scale * shape * np.sqrt(2 / np.pi)
    edges = stats.skewnorm.cdf((np.arange(CODES - 1) + 0.5 - place[:, None]) / scale[:, None], SKEW)
    p = np.round(np.diff(edges, axis=1, prepend=0.0, append=1.0), DIGITS)
    p[ideal, p.argmax(1)] += 1 - p.sum(1)
    return p


def main(name: str) -> None:
    """Print a preset."""
    pedestal, floor, spread = LAWS[name]
    mean = f"{pedestal:g} + " * (pedestal > 0) + f"{T:g} · (1 - exp(-i/{T:g}))"
    print(HEAD.format(name=name, mean=mean, floor=floor, spread=spread))
    for shares in table(*LAWS[name]):
        seen = np.flatnonzero(shares > 10.0**-DIGITS / 2)
        values = " ".join(f"{share:.{DIGITS}f}" for share in shares[seen[0] : seen[-1] + 1])
        print(f'    - "{seen[0]}: {values}"')


HEAD = """\
# An error table of a fabricated SRAM macro's kind: made by examples/skewed_table.py, not by hand.
name: {name}
source: >-
  Generic; no chip. Array, inputs, weights and number of codes as the macro of D-NAT (Lin et al., IEEE JETCAS 12(2),
  2022; see dnat-sram), its table a stated law: mean code {mean}, sigma {floor:g} + {spread:g} ·
  i/127 codes, skewed to smaller codes. Fixed before any network was trained on it.
rows: 64            # bit-cells of a column, all on at once
columns: 256        # 16 banks × 16 columns
columns_per_adc: 16 # a converter a bank
inputs:
  kind: unsigned
  bits: 7           # bits
  digit_bits: 7     # bits driven at once: the DAC's 7, one pass
weights:
  kind: binary      # ±1 stored as 0 or 1
column:
  kind: table
  low: 0            # counts
  step: 8           # counts a code: 128 codes span an eighth of 64 · 127 counts, where sums are
  probability:      # a row an ideal code; first code read: P of it and of those after it
    codes: 128      # 7 bits
    rows:"""

if __name__ == "__main__":
    main(*sys.argv[1:])
