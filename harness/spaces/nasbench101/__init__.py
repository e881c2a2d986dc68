"""NAS-Bench-101 (Ying et al., ICML 2019): 423,624 cells, each a DAG of at most 7 vertices and 9 edges.

Vertex 0 is the cell's input and the last one its output; each vertex between carries one of three operations.
The network is a 3x3 stem of 128 channels, three stacks of three cells at 128, 256 and 512 channels, 2x2
max-pooling between stacks, global average pooling and a linear layer.

A cell is written `N|ROWS|OPERATIONS`: the number of vertices; for each vertex but the last, the part of its row
of the official adjacency matrix that lies right of the diagonal, rows divided by `/`; and the operations of the
inner vertices in order, divided by commas. `4|110/01/1|conv3x3-bn-relu,maxpool3x3` is the official

    matrix=[[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    ops=[input, conv3x3-bn-relu, maxpool3x3, output]

The order of the vertices is kept, because it decides which vertices get the channels that an uneven split over
the output's sources leaves over. Source of the definitions: google-research/nasbench (Apache-2.0).
"""

# ruff: noqa: F401  (the space under one name, without torch)

from harness.spaces.nasbench101.cell import (
    CELLS_PER_STACK,
    CHANNELS,
    CONV1,
    CONV3,
    INNER,
    INPUT,
    MAX_EDGES,
    MAX_VERTICES,
    OPERATIONS,
    OUTPUT,
    POOL,
    Graph,
    decode,
    edge_bit,
    edges_of,
    encode,
    parse,
    vertex_channels,
)
from harness.spaces.nasbench101.space import Cells, NasBench101, enumerate_cells, module_hash
