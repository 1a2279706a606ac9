import pytest
import torch
from shell_noise import ShellNoise

from genmeta.errors import UserError
from genmeta.rng import make_rng
from genmeta.tasks.policies import draw_classes
from genmeta.tasks.prior import GaussianMixture
from genmeta.tasks.space import LatentSpace

SPACE = LatentSpace(GaussianMixture.standard(16))


def test_every_image_is_radius_units_from_the_centre_of_its_class():
    policy = ShellNoise(radius=0.2)
    classes = draw_classes(policy, SPACE, n_tasks=3, n_way=5, separation=0.5, rng=make_rng(0))
    codes = policy.instances(classes, 7, SPACE, make_rng(1))
    assert codes.shape == (3, 5, 7, 16)
    distances = (codes - classes["centre"][:, :, None]).norm(dim=3)
    torch.testing.assert_close(distances, torch.full((3, 5, 7), 0.2 * (2 * 16) ** 0.5))


def test_the_draw_follows_from_the_rng_alone():
    policy, classes = ShellNoise(), {"centre": torch.zeros(1, 2, 16)}
    first, again, other = (policy.instances(classes, 3, SPACE, make_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_radius_of_0_would_make_every_image_the_same():
    with pytest.raises(UserError, match="above 0, found 0"):
        ShellNoise(radius=0)
