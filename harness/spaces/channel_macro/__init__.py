"""Channel-Bench-Macro (Su et al., CVPR 2021): how wide each of seven layers is, of a ResNet and of a MobileNet.

An architecture is a string of seven digits from 1 to 4: quarters of the full width of the seven positions, such as
`4432214`. Two spaces, each complete with its 16,384 members; no two of one space compute the same function, for they
differ in size alone. The networks have three channels of images halved twice: by the stem and in the third block.

- `channel_macro_resnet`: stem of width 0; residual blocks of two 3x3 convolutions, 0 -> 1 -> 0 and 0 -> 2 -> 0; a
  block 0 -> 3 -> 4 of stride 2 without shortcut; residual blocks 4 -> 5 -> 4 and 4 -> 6 -> 4.
- `channel_macro_mobilenet`: stem of width 0; inverted residuals 0 -> (1) -> 0, 0 -> (2) -> 0, 0 -> (3) -> 4 of stride
  2 and 4 -> (5) -> 4, the width in brackets that of the depthwise convolution; a 1x1 convolution to width 6.

Widths, order and activations are those of the release's training code (xiusu/Channel-Bench-Macro, `model.py`);
parameters and multiply-accumulates equal the stored ones for all members.
"""

# ruff: noqa: F401  (the space under one name, without torch)

from harness.spaces.channel_macro.cell import (
    MOBILENET,
    POSITIONS,
    RESNET,
    Block,
    Family,
    Layer,
    blocks_at,
    decode,
    widths_of,
)
from harness.spaces.channel_macro.space import ChannelMacroMobileNet, ChannelMacroResNet
