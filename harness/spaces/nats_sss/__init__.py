"""NATS-Bench's size space (Dong et al., TPAMI 2021): how many channels each of five blocks has.

An architecture is written `C0:C1:C2:C3:C4`, each of 8, 16, ..., 64 channels; 32,768 in all, numbered as NATS-Bench
does, the last position changing fastest. Blocks 0, 2 and 4 are the same NAS-Bench-201 cell, `CELL`; blocks 1 and
3 are its residual blocks of stride 2; stem and end are those of NAS-Bench-201, at C0 and C4 channels. A cell
that changes the number of channels does so in its edges from node 0, whose skip is then a 1x1 convolution with
BatchNorm (and no ReLU). Source: D-X-Y/AutoDL-Projects, `shape_infers/InferTinyCellNet.py` (MIT).
"""

# ruff: noqa: F401  (the space under one name, without torch)

from harness.spaces.nats_sss.cell import CELL, CHOICES, FROM_INPUT, INSIDE, POSITIONS, REDUCTIONS, decode
from harness.spaces.nats_sss.space import Block, NatsSss, blocks_at
