"""The product of the Hessian of a loss and its gradient, and layers that are cheap to differentiate twice."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from harness.probes.base import Unscorable, gradients

if TYPE_CHECKING:
    from harness.probes.operations import Operation, Watch


def hessian_gradient(weights: list, grads: list) -> list:
    """H g of each of `weights`, H the Hessian of the loss whose gradients, with their graph, are `grads`.

    By a backward through the inner product of g with itself held fixed. None where no gradient arrives.
    """
    product = sum((g.detach() * g).sum() for g in grads if g is not None)
    try:
        return gradients(product, weights)
    except RuntimeError as error:
        if "is not implemented" in str(error) or "once_differentiable" in str(error):
            raise Unscorable(f"torch cannot differentiate the network twice: {str(error).splitlines()[0]}") from error
        raise


def twice_differentiable(network: Any) -> Watch:
    """For the time of the block convolutions and BatchNorms have second derivatives made of the first's kernels.

    torch composes that of BatchNorm of some twenty kernels and that of a convolution of transposed copies: together
    over half of the time of a Hessian-gradient product. Only gradients of maps and of weights of convolutions can be
    differentiated again, those of biases and of BatchNorm's parameters cannot: where these are computed, from weights
    whose gradients come by them, torch's own derivatives stay. Running statistics stay as they are.
    """
    from harness.probes.operations import CONVOLUTION, NORMALISATION, Watch

    return Watch(network, {CONVOLUTION: _convolution, NORMALISATION: _normalisation})


def _convolution(operation: Operation) -> Any:
    from harness.probes.operations import geometry

    x, weight = operation.input, operation.weight
    if x.ndim != 4 or weight.ndim != 4 or _is_computed(operation.get("bias")):
        return operation.run()
    stride, sides, dilation, groups = geometry(operation)
    if any(first != last for first, last in sides):
        return operation.run()
    shape = (stride, tuple(first for first, _ in sides), dilation, False, (0, 0), groups)
    return _convolution_function().apply(x, weight, operation.get("bias"), shape)


def _normalisation(operation: Operation) -> Any:
    import torch.nn.functional as F

    x = operation.input
    if operation.name != "batch_norm" or operation.fixed or not operation.get("training"):
        return operation.run()
    if x.ndim != 4 or x.numel() <= x.shape[1]:
        return operation.run()
    weight, bias, eps = operation.get("weight"), operation.get("bias"), operation.get("eps", 1e-5)
    computed = _is_computed(weight) or _is_computed(bias)
    weight = x.new_ones(x.shape[1]) if weight is None else weight
    bias = x.new_zeros(x.shape[1]) if bias is None else bias
    if computed:  # torch's second derivative fails where there is a bias without a weight
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    return _normalisation_function().apply(x, weight, bias, eps)


def _is_computed(parameter: Any) -> bool:
    return parameter is not None and parameter.grad_fn is not None


@cache
def _convolution_function() -> Any:
    """The convolution (x, weight, bias, geometry)."""
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

    return Convolution


@cache
def _normalisation_function() -> Any:
    """BatchNorm (x, weight, bias, eps) on the statistics of the mini-batch."""
    import torch
    from torch.autograd.function import once_differentiable

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

    return Normalisation
