"""NAS-Bench-Macro (Su et al., CVPR 2021): which block each of eight layers is.

An architecture is a string of eight digits: 0 the identity, 1 an inverted residual block of expansion 3 and kernel
3, 2 one of expansion 6 and kernel 5. The layers form three stages (2, 3 and 3 layers); the first layer of a stage
halves the maps and doubles the channels, where 0 is a 1x1 convolution of stride 2 with BatchNorm.
"""

# ruff: noqa: F401  (the space under one name, without torch)

from harness.spaces.macro.cell import BLOCKS, CHANNELS, HEAD, IDENTITY, STAGES, Layer, layers_at
from harness.spaces.macro.space import Macro, without_identities
