"""The conditional flow: its inverse and determinant against autograd, and its density."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hand_unc_ros.networks.coupling_flow import CouplingFlow

torch.set_num_threads(1)


def random_flow(dims: int, seed: int, size: float = 0.5, layers: int = 6) -> CouplingFlow:
    torch.manual_seed(seed)
    flow = CouplingFlow(dims, 5, 16, layers).double()
    with torch.no_grad():
        for change in flow.change:
            change.weight.normal_(0, size)
            change.bias.normal_(0, size)
    return flow


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 7), st.integers(0, 1000))
def test_inverse_and_determinant_are_those_of_autograd(dims: int, seed: int) -> None:
    flow = random_flow(dims, seed)
    z, condition = torch.randn(3, dims).double(), torch.randn(3, 5).double()
    x = flow(z, condition)
    back, log_determinant = flow.inverse(x, condition)
    torch.testing.assert_close(back, z, atol=1e-7, rtol=1e-7)
    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v, c=condition[row]: flow.inverse(v, c)[0], x[row])
        torch.testing.assert_close(log_determinant[row], torch.linalg.slogdet(jacobian)[1], atol=1e-5, rtol=1e-5)


def test_it_begins_as_the_identity_and_its_condition_matters_later() -> None:
    z, condition = torch.randn(4, 3), torch.randn(4, 5)
    assert torch.equal(CouplingFlow(3, 5, 8, 4)(z, condition), z)
    flow = random_flow(2, 0)
    samples = flow(torch.randn(9, 4, 2).double(), condition.double())
    assert samples.shape == (9, 4, 2)
    here, there = (flow(z[:, :2].double(), sign * condition.double()) for sign in (1, -1))
    assert (here - there).abs().max() > 0.01


def test_its_density_integrates_to_one() -> None:
    flow = random_flow(2, 3, 0.2, 4)
    condition = torch.randn(5).double()
    axis = torch.linspace(-9, 9, 361).double()
    grid = torch.stack(torch.meshgrid(axis, axis, indexing='ij'), -1)
    with torch.no_grad():
        mass = flow.log_density(grid, condition).exp().sum() * (axis[1] - axis[0]) ** 2
    # The trapezoid's error and the tails beyond 9 are far smaller.
    assert mass.item() == pytest.approx(1.0, abs=1e-3)


def test_a_label_far_off_pulls_no_harder_than_the_limit() -> None:
    flow = CouplingFlow(2, 5, 8, 4).double()
    condition = torch.zeros(5).double()
    near, far = (torch.tensor([value, 0.0]).double().requires_grad_() for value in (1.0, 50.0))
    for x, pull in ((near, 1.0), (far, 3.0)):
        flow.log_density(x, condition, 3.0).backward()
        assert x.grad[0].item() == pytest.approx(-pull, rel=1e-6)
    assert flow.log_density(near, condition).item() == pytest.approx(-0.5 - math.log(2 * math.pi))


def test_gradients_in_double() -> None:
    flow = random_flow(2, 1, layers=2)
    z, condition = (torch.randn(2, size).double().requires_grad_() for size in (2, 5))
    assert torch.autograd.gradcheck(flow, (z, condition))
    assert torch.autograd.gradcheck(lambda x, c: flow.log_density(x, c), (z, condition))
