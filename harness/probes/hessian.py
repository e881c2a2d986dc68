"""The product of the Hessian of a loss and its gradient, and layers that are cheap to differentiate twice."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache, partial
from typing import Any

from harness.probes.base import gradients, pads_with_zeros, replaced_forward


def hessian_gradient(weights: list, grads: list) -> list:
    """H g of each of `weights`, H the Hessian of the loss whose gradients, with their graph, are `grads`.

    By a backward through the inner product of g with itself held fixed. None where no gradient arrives.
    """
    product = sum((g.detach() * g).sum() for g in grads if g is not None)
    return gradients(product, weights)


def twice_differentiable(network: Any) -> ExitStack:
    """For the time of the block convolutions and BatchNorms have second derivatives made of the first's kernels.

    torch composes that of BatchNorm of some twenty kernels and that of a convolution of transposed copies: together
    over half of the time of a Hessian-gradient product. Only gradients of maps and of weights of convolutions can be
    differentiated again, those of biases and of BatchNorm's parameters cannot. Running statistics stay as they are.
    """
    from torch import nn

    forwards = {nn.Conv2d: _convolution, nn.BatchNorm2d: _normalisation}
    stack = ExitStack()
    for module in network.modules():
        if type(module) in forwards:
            stack.enter_context(replaced_forward([module], partial(forwards[type(module)], module)))
    return stack


def _convolution(layer: Any, x: Any) -> Any:
    if x.ndim != 4 or not pads_with_zeros(layer):
        return type(layer).forward(layer, x)
    geometry = (layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups)
    return _functions()[0].apply(x, layer.weight, layer.bias, geometry)


def _normalisation(layer: Any, x: Any) -> Any:
    if not layer.training or x.ndim != 4 or x.numel() <= x.shape[1]:
        return type(layer).forward(layer, x)
    weight = x.new_ones(x.shape[1]) if layer.weight is None else layer.weight
    bias = x.new_zeros(x.shape[1]) if layer.bias is None else layer.bias
    return _functions()[1].apply(x, weight, bias, layer.eps)


@cache
def _functions() -> tuple[Any, Any]:
    """The convolution (x, weight, bias, geometry) and the BatchNorm (x, weight, bias, eps)."""
    import torch
    from torch.autograd.function import once_differentiable

    def convolution_backward(grad, x, weight, geometry, mask):
        sizes = [weight.shape[0]] if mask[2] else None
        return torch.ops.aten.convolution_backward(grad, x, weight, sizes, *geometry, mask)

    class Convolution(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias, geometry):
            ctx.save_for_backward(x, weight)
            ctx.geometry = geometry
            return torch.convolution(x, weight, bias, *geometry)

        @staticmethod
        def backward(ctx, grad):
            return *ConvolutionGradient.apply(grad, *ctx.saved_tensors, ctx.geometry, ctx.needs_input_grad[:3]), None

    class ConvolutionGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, grad, x, weight, geometry, mask):
            ctx.save_for_backward(grad, x, weight)
            ctx.geometry = geometry
            ctx.set_materialize_grads(False)
            by_x, by_weight, by_bias = convolution_backward(grad, x, weight, geometry, mask)
            if by_bias is not None:
                ctx.mark_non_differentiable(by_bias)
            return by_x, by_weight, by_bias

        @staticmethod
        @once_differentiable
        def backward(ctx, of_x, of_weight, _):
            # <of_x, by_x> + <of_weight, by_weight> is linear in grad and, but for each other, in x and weight.
            grad, x, weight = ctx.saved_tensors
            inward = [
                torch.convolution(seen, kernel, None, *ctx.geometry)
                for seen, kernel in ((of_x, weight), (x, of_weight))
                if seen is not None and kernel is not None
            ]
            mask = [ctx.needs_input_grad[1] and of_weight is not None, of_x is not None, False]
            by_x, by_weight, _ = convolution_backward(
                grad, x if of_x is None else of_x, weight if of_weight is None else of_weight, ctx.geometry, mask
            )
            return sum(inward[1:], inward[0]) if inward else None, by_x, by_weight, None, None

    def normalisation_backward(grad, x, weight, mean, inverse, eps):
        options = (None, None, mean, inverse, True, eps, [True, True, True])
        return torch.ops.aten.native_batch_norm_backward(grad, x, weight, *options)

    class Normalisation(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias, eps):
            normal, mean, inverse = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
            ctx.save_for_backward(x, weight, mean, inverse)
            ctx.eps = eps
            return normal

        @staticmethod
        def backward(ctx, grad):
            return *NormalisationGradient.apply(grad, *ctx.saved_tensors, ctx.eps), None

    class NormalisationGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, grad, x, weight, mean, inverse, eps):
            by_x, by_weight, by_bias = normalisation_backward(grad, x, weight, mean, inverse, eps)
            ctx.save_for_backward(grad, x, weight, mean, inverse, by_weight, by_bias)
            ctx.eps = eps
            ctx.mark_non_differentiable(by_weight, by_bias)
            ctx.set_materialize_grads(False)
            return by_x, by_weight, by_bias

        @staticmethod
        @once_differentiable
        def backward(ctx, other, *_):
            if other is None:
                return (None,) * 6
            # by_x = J grad with a symmetric J(x); the derivative of <other, J grad> by x is, channel by channel, a
            # combination of x, other and grad, as mean and deviation are functions of x.
            grad, x, weight, mean, inverse, grad_along, grad_sum = ctx.saved_tensors
            by_grad, other_along, other_sum = normalisation_backward(other, x, weight, mean, inverse, ctx.eps)
            count = x.numel() // x.shape[1]
            along, other_along = grad_along / count, other_along / count  # means of grad, other times the normalised x
            grad_mean, other_mean = grad_sum / count, other_sum / count
            covariance = (other * grad).sum(dim=(0, 2, 3)) / count - other_mean * grad_mean
            scale = weight * inverse.square()
            of_x, of_other, of_grad = (
                scale * inverse * (3 * along * other_along - covariance),
                -scale * along,
                -scale * other_along,
            )
            offset = -(of_x * mean + of_other * other_mean + of_grad * grad_mean)
            by_x = torch.addcmul(offset[:, None, None], x, of_x[:, None, None])
            by_x.addcmul_(other, of_other[:, None, None]).addcmul_(grad, of_grad[:, None, None])
            return by_grad, by_x, None, None, None, None

    return Convolution, Normalisation
