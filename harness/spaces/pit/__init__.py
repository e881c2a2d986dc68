"""PiT (Heo et al., ICCV 2021) as ViT-Bench-101 (Wei et al., AAAI 2024) searches it: a Transformer in three stages.

An architecture is written `BASErRATIO-HEADSxDEPTH-HEADSxDEPTH-HEADSxDEPTH`, such as `32r4-2x2-4x6-8x4`: width of a
head, how many times wider the MLPs are inside, and of each stage its heads and its blocks; a stage's tokens are as
wide as its heads together. Patches of 16 x 16 pixels begin every 8; between stages a depthwise 3x3 convolution of
stride 2 halves the grid of patches and widens it, and a linear layer widens the class token, which alone the
classifier reads. Blocks are those of `harness.spaces.autoformer` without distances. Facts after
lilujunai/Auto-Prox-AAAI24.
"""

# ruff: noqa: F401  (the space under one name, without torch)

from harness.spaces.pit.cell import BASES, RATIOS, STRIDE, Pyramid, decode, grids
from harness.spaces.pit.space import VitBenchPit
