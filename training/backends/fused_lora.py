"""LoRA layers whose weight and adapter are added up before they meet the activations.

PEFT computes ``x·Wᵀ + s·(x·Aᵀ)·Bᵀ``: six products with the activations per step of training, four of them thin, and
several sums. ``x·(W + s·B·A)ᵀ`` is the same and needs two large products, and thin ones only for the gradients of A and
B. It rounds differently, so only large models on a CPU use it, in float32.
"""

from typing import Any

import torch
import torch.nn.functional as F


class _FusedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(inputs, weight, down, up)
        ctx.scale = scale
        return F.linear(inputs, torch.addmm(weight, up, down, alpha=scale), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, weight, down, up = ctx.saved_tensors
        gradient, rows = gradients[0].flatten(0, -2), inputs.flatten(0, -2)
        of_inputs = None
        if ctx.needs_input_grad[0]:
            of_inputs = (gradient @ torch.addmm(weight, up, down, alpha=ctx.scale)).view_as(inputs)
        of_down = (gradient @ up).mul_(ctx.scale).T @ rows
        of_up = gradient.T @ F.linear(rows, down).mul_(ctx.scale)
        return of_inputs, None, None, of_down, of_up, None


class _FusedForward:
    """The forward function of one LoRA layer; leaves to PEFT what it cannot do."""

    def __init__(self, layer: Any) -> None:
        self._layer, self._plain = layer, layer.forward

    def __call__(self, inputs: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        layer = self._layer
        adapters = [name for name in layer.active_adapters if name in layer.lora_A]
        # Autocast would round in `_FusedLinear.forward` and not in its backward pass.
        mixed = torch.is_autocast_enabled(inputs.device.type)
        if mixed or layer.disable_adapters or layer.merged or len(adapters) != 1 or args or options:
            return self._plain(inputs, *args, **options)
        down, up = layer.lora_A[adapters[0]], layer.lora_B[adapters[0]]
        base = layer.get_base_layer()
        plain = up.bias is None and isinstance(layer.lora_dropout[adapters[0]], torch.nn.Identity)
        # For fewer tokens, adding up the weights costs more than it saves.
        few = inputs.numel() // inputs.shape[-1] * sum(base.weight.shape) < base.weight.numel()
        if few or not plain or adapters[0] in layer.lora_variant or inputs.dtype != base.weight.dtype:
            return self._plain(inputs)
        return _FusedLinear.apply(inputs, base.weight, base.bias, down.weight, up.weight, layer.scaling[adapters[0]])


def fuse(model: Any) -> None:
    """Let the LoRA layers of a model compute this way in training."""
    from peft.tuners.lora import Linear

    for layer in model.modules():
        if isinstance(layer, Linear) and type(layer.get_base_layer()) is torch.nn.Linear:
            layer.forward = _FusedForward(layer)
