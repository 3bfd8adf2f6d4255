"""Training runs as papers state them, for the methods that are theirs."""

from bitline.train.config import Sgd, TrainConfig
from bitline.train.schedules import Step

DNAT = TrainConfig(epochs=256, lr=0.1, optimizer=Sgd())
"""D-NAT's (Lin et al., JETCAS 12(2), 2022): SGD, 256 epochs. Rate, momentum, decay and schedule are not public: these
are the library's own. The macro: 7-bit inputs, 1-bit weights, 7-bit partial sums, as in the preset ``dnat-sram``."""
DNAT_BATCH = 128
"""D-NAT's batch, samples."""
HASGD = TrainConfig(epochs=200, lr=0.02, optimizer=Sgd(), schedule=Step(milestones=(0.3, 0.6, 0.9), gamma=0.2))
"""HA-SGD's (Wan et al., JETC 18(2), 2022, authors' code): SGD of momentum 0.9 and decay 5e-4, 200 epochs, the rate
times 0.2 every 60. Their rate is 0.01, but each batch makes two steps: 0.02 goes as far in one."""
HASGD_BATCH = 200
"""HA-SGD's batch, samples."""
