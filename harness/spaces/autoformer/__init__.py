"""AutoFormer (Chen et al., ICCV 2021): Vision Transformers of one width whose blocks differ in heads and MLP.

An architecture is written `WIDTH-HEADSxRATIO-…`: the width of the tokens, then for each block its attention heads and
how many times wider its MLP is inside, such as `192-3x4-4x3.5-…`. All read patches of 16 x 16 pixels, add learned
positions and a class token, normalise before attention and MLP, and average the patches behind the last norm.

- `autoformer_tiny`, `autoformer_small`, `autoformer_base`: the three supernets' spaces. A head is 64 wide, whatever the
  tokens are, and keys and values take a learned term of the clipped distance between two patches (rows and columns
  apart, and of one more for the class token). Facts after microsoft/Cream, `AutoFormer` (MIT); parameters equal those
  of 3,003 networks of OoD-ViT-NAS.
- `vit_bench_autoformer`: the networks that ViT-Bench-101 (Wei et al., AAAI 2024) trained from such encodings: plain
  attention without distances, whose heads share the width of the tokens. Facts after lilujunai/Auto-Prox-AAAI24.
"""

# ruff: noqa: F401  (the space under one name, without torch)

from harness.spaces.autoformer.cell import HEAD, REACH, Choice, Transformer, decode, grid
from harness.spaces.autoformer.space import AutoFormerBase, AutoFormerSmall, AutoFormerTiny, VitBenchAutoFormer
