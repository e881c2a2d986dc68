"""TransNAS-Bench-101 (Duan et al., CVPR 2021): a space of cells (micro) and one of module stacks (macro).

Both write a network as `BASE-MODULES-BLOCK`, such as `64-41414-1_02_333` and `64-1234-basic`: channels behind the
stem, a digit a module, and the block that modules are made of. Module 1 keeps channels and side, 2 doubles the
channels, 3 halves the side, 4 does both. A module is two blocks, of which the first changes channels and side.

The block of the macro space is ResNet's, `basic`; its modules are 4 to 6, of which 1 to 3 double the channels and 1
to 4 halve the side; the BatchNorm on a shortcut has an eps of 1, as the benchmark's code came to have it.

The micro space has the modules 41414, and its block is a cell: a complete DAG of four nodes (node 1 reads node 0;
node 2 nodes 0 and 1; node 3 nodes 0, 1 and 2; in the order of the text), whose six edges carry 0 nothing, 1 a skip,
2 a 1x1 or 3 a 3x3 convolution. In a block of stride 2 a skip from node 0 is a factorised reduction, with weights.

The network is the encoder of all seven tasks with one head for all: mean over positions and a linear layer. That is
the benchmark's own head of class_object, class_scene and room_layout; the cards say what it stands for on the others.
"""

# ruff: noqa: F401  (the space under one name, without torch)

from harness.spaces.transnas101.cell import (
    BASE,
    BASIC,
    BLOCKS_PER_MODULE,
    KERNELS,
    MACRO_DOUBLINGS,
    MACRO_HALVINGS,
    MACRO_LENGTHS,
    MICRO_MODULES,
    decode_cell,
    decode_modules,
    doubles,
    halves,
)
from harness.spaces.transnas101.space import SOURCES, TARGETS, Block, TransNas101Macro, TransNas101Micro
