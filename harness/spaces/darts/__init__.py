"""The DARTS space (Liu, Simonyan & Yang, ICLR 2019), also that of NAS-Bench-301, and the cell spaces of NDS.

An architecture is a genotype: a normal and a reduction cell. A cell has two input nodes (0 and 1, the outputs of
the two cells before) and four or five intermediate nodes (2 and up); each of these sums two operations on earlier
nodes, and the cell's output concatenates the nodes that its `concat` names: all four in DARTS. Cells are stacked,
those at 1/3 and 2/3 of the depth being reductions.

Besides DARTS's own text, `Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, 3, 4, 5], reduce=[...],
reduce_concat=[2, 3, 4, 5])`, NASLib's compact form `[[(node, op), ... 8], [(node, op), ... 8]]` is read: normal
cell first, node numbers as above, two pairs an intermediate node, `op` a place in max_pool_3x3, avg_pool_3x3,
skip_connect, sep_conv_3x3, sep_conv_5x5, dil_conv_3x3, dil_conv_5x5. That is the order in which NASLib's
`search_spaces/nasbench301/conversions.py` writes and reads them; `search_spaces/darts/conversions.py` writes the
same numbers, and an old version of it reads them shifted by one. The order without a shift is the right one: with
it, the parameters that NASLib published with the genotypes (`data/zc_nasbench301.json`) are those of the networks.

A benchmark whose networks differ in size writes each one's behind its genotype: `Genotype(...)@channels=16,layers=8`.
So do the cell spaces of Radosavovic et al. (On Network Design Spaces for Visual Recognition, ICCV 2019), which put
the operations of NASNet, AmoebaNet, PNAS and ENAS into DARTS's network: of five nodes each, of which those of NASNet
and AmoebaNet concatenate the nodes that no other reads. The operations are those of facebookresearch/unnas,
`pycls/models/nas/operations.py`, which NDS trained with.
"""

# ruff: noqa: F401  (the space under one name, without torch)

from harness.spaces.darts.cell import (
    AVG_POOL,
    COMPACT,
    CONCAT,
    CONV1,
    CONV3,
    CONV31,
    CONV71,
    DARTS_OPERATIONS,
    DIL3,
    DIL5,
    DIL_SEP3,
    FACTORISED,
    INPUTS,
    KERNELS,
    MAX_POOL,
    MAX_POOL5,
    MAX_POOL7,
    MAX_POOLS,
    NODE_COUNTS,
    NODES,
    NONE,
    OPERATIONS,
    POOLS,
    SEP3,
    SEP5,
    SEP7,
    SEPARABLE,
    SKIP,
    STEM_MULTIPLIER,
    STEMS,
    Cell,
    Genotype,
    decode,
    encode,
    is_of_darts,
    reductions,
)
from harness.spaces.darts.space import Darts
