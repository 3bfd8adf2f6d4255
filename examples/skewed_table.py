"""The preset generic-skewed-sram, made again: an error table of a fabricated SRAM macro's kind, from a stated law.

    python examples/skewed_table.py > src/bitline/macro/presets/generic-skewed-sram.yaml

The macro of D-NAT (Lin et al., JETCAS 12(2), 2022) is measured, but its table is not public. What is: 128 codes, more
distortion at larger values, no Gaussian. The law here is like that, and was fixed before any network was trained on it:
code = T · (1 - exp(-i/T)) + noise, as a bit line that discharges, sigma = FLOOR + SPREAD · i/127 codes, skewed
to smaller codes.
"""

import numpy as np
from scipy import stats

CODES = 128
T, FLOOR, SPREAD, SKEW = 64.0, 0.4, 1.5, -4.0
DIGITS = 6


def table(t: float = T, floor: float = FLOOR, spread: float = SPREAD) -> np.ndarray:
    """P(code | ideal code), rows that sum to 1 in ``DIGITS`` decimal digits."""
    ideal = np.arange(CODES)
    mean, sigma = t * (1 - np.exp(-ideal / t)), floor + spread * ideal / (CODES - 1)
    shape = SKEW / np.sqrt(1 + SKEW**2)
    scale = sigma / np.sqrt(1 - 2 * shape**2 / np.pi)
    place = mean - scale * shape * np.sqrt(2 / np.pi)
    edges = stats.skewnorm.cdf((np.arange(CODES - 1) + 0.5 - place[:, None]) / scale[:, None], SKEW)
    p = np.round(np.diff(edges, axis=1, prepend=0.0, append=1.0), DIGITS)
    p[ideal, p.argmax(1)] += 1 - p.sum(1)
    return p


def main() -> None:
    """Print the preset."""
    print(HEAD.format(t=T, floor=FLOOR, spread=SPREAD))
    for shares in table():
        seen = np.flatnonzero(shares > 10.0**-DIGITS / 2)
        values = " ".join(f"{share:.{DIGITS}f}" for share in shares[seen[0] : seen[-1] + 1])
        print(f'    - "{seen[0]}: {values}"')


HEAD = """\
# An error table of a fabricated SRAM macro's kind: made by examples/skewed_table.py, not by hand.
name: generic-skewed-sram
source: >-
  Generic; no chip. Array, inputs, weights and number of codes as the macro of D-NAT (Lin et al., IEEE JETCAS 12(2),
  2022; see dnat-sram), its table a stated law: mean code {t:g} · (1 - exp(-i/{t:g})), sigma {floor:g} + {spread:g} ·
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
    main()
