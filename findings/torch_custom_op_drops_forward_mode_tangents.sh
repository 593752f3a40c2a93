#!/usr/bin/env bash
# The forward-mode derivative of an operator made with torch.library.custom_op is zero, without an error.
#
# Package: torch 2.13.0.
# Expected: an error, as from the sister: a torch.autograd.Function without `jvp` raises NotImplementedError.
# Seen: an operator with `register_autograd` gives the right gradient in backward mode. `torch.func.jvp` gives zeros,
#     and a dual tensor comes out without its tangent.
# Why it matters: a Jacobian, a Hessian-vector product or a linearisation through the operator is wrong in silence.
# How to live with it: use reverse mode, or call a formula of plain torch operations where a tangent may come.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6

venv/bin/python - <<'PYTHON'
import sys

import torch
from torch.autograd import forward_ad


def keep_input(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])


def cube_gradient(ctx, gradient):
    return gradient * 3 * ctx.saved_tensors[0] ** 2


@torch.library.custom_op("findings::cube", mutates_args=())
def cube(x: torch.Tensor) -> torch.Tensor:
    return x**3


cube.register_autograd(cube_gradient, setup_context=keep_input)


class Cube(torch.autograd.Function):
    forward = staticmethod(lambda x: x**3)
    setup_context = staticmethod(keep_input)
    backward = staticmethod(cube_gradient)


x = torch.tensor([2.0])
one = torch.ones(1)
plain = torch.func.jvp(lambda x: x**3, (x,), (one,))[1].item()
operator = torch.func.jvp(cube, (x,), (one,))[1].item()
try:
    function = torch.func.jvp(Cube.apply, (x,), (one,))[1].item()
except NotImplementedError:
    function = "NotImplementedError"
with forward_ad.dual_level():
    tangent = forward_ad.unpack_dual(cube(forward_ad.make_dual(x, one))).tangent
leaf = x.clone().requires_grad_()
cube(leaf).backward()
backward = leaf.grad.item()

print(f"derivative of x**3 at 2: plain {plain}, autograd.Function {function}")
print(f"custom_op: jvp {operator}, dual tensor {tangent}, backward {backward}")
if (plain, operator, function, tangent, backward) != (12.0, 0.0, "NotImplementedError", None, 12.0):
    sys.exit("This has changed.")
PYTHON
