"""NAS-Bench-201 (Dong & Yang, ICLR 2020), which is also NATS-Bench's topology space.

A cell is a complete DAG of four nodes; each of its six edges carries one of five operations. The network is a
3x3 stem, three stages of five cells at 16, 32 and 64 channels, a residual block of stride 2 between stages,
and BatchNorm-ReLU-pooling-linear at the end.
"""

# ruff: noqa: F401  (the space under one name, without torch)

from harness.spaces.nasbench201.cell import (
    CELLS_PER_STAGE,
    CHANNELS,
    CONV1,
    CONV3,
    EDGES,
    NONE,
    OPERATIONS,
    PATHS,
    POOL,
    SKIP,
    Cells,
    cell_key,
    decode,
    encode,
    enumerate_cells,
    has_no_dead_operation,
    stage_sides,
    unique_string,
)
from harness.spaces.nasbench201.space import NASLIB_EDGES, NASLIB_OPERATIONS, NasBench201
