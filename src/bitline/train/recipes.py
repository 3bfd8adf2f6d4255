"""Training runs as papers state them, for the methods that are theirs."""

from bitline.train.config import Sgd, TrainConfig

DNAT = TrainConfig(epochs=256, lr=0.1, optimizer=Sgd())
"""D-NAT's (Lin et al., JETCAS 12(2), 2022): SGD, 256 epochs. Rate, momentum, decay and schedule are not public: these
are the library's own. The macro: 7-bit inputs, 1-bit weights, 7-bit partial sums, as in the preset ``dnat-sram``."""
DNAT_BATCH = 128
"""D-NAT's batch, samples."""
