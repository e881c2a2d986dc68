"""The spaces of super-blocks: ZenNAS (Lin et al., ICCV 2021) and MobileNetV2 (ZiCo, AZ-NAS, VKDNW).

A network is a 3x3 convolution, super-blocks, a 1x1 convolution, average pooling and a linear layer. A super-block
repeats its layer; the first layer changes channels and side. A search starts from the authors' initial network and
changes a block's type, kernel, expansion, outputs, bottleneck channels or number of layers: channels by factors of
1.25, 1.5, 2 and 2.5 and their inverses, rounded to multiples of 8, the number of layers by one or two. Here channels
also move by 8: by factors alone some widths could never be reached.

The authors split a super-block in two once it has six layers. Here each stage has a second super-block of stride 1
which may be empty, and a super-block has at most five layers: the same networks of up to ten layers a stage, in a
fixed list of genes. Multiply-accumulates are those of convolutions and linear layers; the authors' FLOPs add
those of BatchNorm and ReLU, which are some per cent.
"""

# ruff: noqa: F401  (the space under one name, without torch)

from harness.search.spaces.plainnet.space import FACTORS, KERNELS, MOST_LAYERS, MobileNetV2, Start, ZenNas
