"""ESFormer (Cavagnero et al., Entropic Score, 2023): hybrid transformers on EfficientFormerV2's plan.

Four stages at strides 4, 8, 16 and 32 behind a stem of two 3x3 convolutions of stride 2; the last blocks of stages 3
and 4 are attention followed by a feed-forward block, all others a feed-forward block; 3x3 convolutions of stride 2
between stages, an attention of stride 2 between the last two. Stages, depths and the parts of the attention are
EfficientFormerV2's (Li et al., ICCV 2023): attention of stage 3 works on maps of half the side, values have four
times the channels of keys, heads talk before and after the softmax, a 3x3 depthwise convolution of the values is added.

Searched, a block (Table 1 of the paper): the type of the feed-forward block, its kernel (fixed at 3 beside an
attention), its output width, its expansion; for an attention its number of heads and the width of a head's keys.
Widths never decrease; where one grows the residual link is padded with zeros.

The paper prints no lists of values. Those here are a choice of this project: widths from half to 1.25 times
EfficientFormerV2's in steps of 8, expansions 2 to 5, kernels 3, 5 and 7, 4, 6 or 8 heads of 16, 24 or 32. Layer scale
is left out, as it would shrink every residual branch alike at initialisation.
"""

# ruff: noqa: F401  (the space under one name, without torch)

from harness.search.spaces.esformer.space import (
    BLOCKS,
    EMBEDDING_HEAD_DIM,
    EMBEDDING_HEADS,
    EXPANSIONS,
    HEAD_DIMS,
    HEADS,
    KERNELS,
    PLANS,
    VALUE_RATIO,
    EsFormer,
    Plan,
)
