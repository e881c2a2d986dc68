"""Accel-NASBench (Ahmad et al., DAC 2024): MnasNet's space of seven blocks in EfficientNet-B0's frame.

A block is one to three layers (the sixth up to four) of inverted residuals that share an expansion (1, 4 or 6), a
kernel (3 or 5) and whether they squeeze and excite. An architecture is written as its seven blocks, such as
`e6k3l1-e4k5l2se-e6k3l3-e6k5l3-e6k5l2se-e1k3l2-e1k3l2`; the four lists of the benchmark's own interface,
`[[6, 4, ...], [3, 5, ...], [1, 2, ...], [False, True, ...]]` (expansions, kernels, layers, squeeze-excite), are read
as well.

Channels, strides, stem and head are those of the release's training code: stem of 32 channels and stride 2, blocks of
16, 24, 40, 80, 112, 192 and 320, head of 1,280. The layers of expansion 1 have no expanding convolution; a
squeeze-excite layer squeezes to a quarter of the layer's input channels, not of the expanded ones. Of every row the
parameters and the multiply-accumulates that the benchmark stores follow from this (the latter with what its counter
adds for normalisation and pooling: see the card).
"""

# ruff: noqa: F401  (the space under one name, without torch)

from harness.spaces.accel_nasbench.cell import (
    CHANNELS,
    EXPANSIONS,
    HEAD,
    KERNELS,
    LAYERS,
    SQUEEZE,
    STEM,
    STRIDES,
    Block,
    decode,
)
from harness.spaces.accel_nasbench.space import AccelNasBench, Place, places
