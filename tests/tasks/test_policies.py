"""Latent policies with encodings: their formulas, class structure, separation."""

import re
from dataclasses import replace

import pytest
import torch
from conftest import make_table

from genmeta.episode import DECODER, TABLE, EpisodeShape, plan_hash
from genmeta.errors import UserError
from genmeta.rng import make_rng
from genmeta.tasks.clusters import ClusterTasks, partition
from genmeta.tasks.latent import GeneratedInstances, LatentTasks
from genmeta.tasks.mixed import MixedTasks
from genmeta.tasks.policies import (
    ClassExtrapolation,
    ClassGaussian,
    ClassInterpolation,
    EncodedNoise,
    MixtureComponents,
    OtherClass,
    PriorNoise,
    RandomOther,
    TransferredVariation,
    draw_classes,
)
from genmeta.tasks.prior import GaussianMixture
from genmeta.tasks.real import RealTasks
from genmeta.tasks.sampler import TaskPool
from genmeta.tasks.space import Encodings, LatentSpace, move

DIM = 16
N_CLASSES, N_IMAGES = 24, 20


def make_encodings(within=0.3) -> Encodings:
    """24 classes of 20 codes: class means of N(0, I), deviations of N(0, within² I)."""
    rng = make_rng("encodings")
    means = torch.randn(N_CLASSES, 1, DIM, generator=rng)
    codes = means + within * torch.randn(N_CLASSES, N_IMAGES, DIM, generator=rng)
    scales = 0.1 + 0.1 * torch.rand(N_CLASSES * N_IMAGES, DIM, generator=rng)
    counts = torch.full((N_CLASSES,), N_IMAGES)
    rows = torch.arange(N_CLASSES * N_IMAGES)
    return Encodings(codes.flatten(0, 1), scales, rows, counts.cumsum(0) - counts, counts)


ENCODINGS = make_encodings()
SPACE = LatentSpace(GaussianMixture.standard(DIM), ENCODINGS)
TABLE_ = make_table(N_CLASSES, (N_IMAGES,))
POOL = replace(TaskPool.of(TABLE_, torch.arange(N_CLASSES)), prior=SPACE.prior, encodings=ENCODINGS)
POLICIES = {
    "prior_noise": PriorNoise(0.3),
    "prior_noise_images": PriorNoise(0.2, anchors="images"),
    "random_other_images": RandomOther(0.2, anchors="images"),
    "random_other_spherical": RandomOther(0.25, spherical=True),
    "other_class_images": OtherClass(0.3, anchors="images"),
    "other_class_spherical": OtherClass(0.3, spherical=True),
    "encoded_noise": EncodedNoise(),
    "transferred": TransferredVariation(0.7),
    "transferred_prior": TransferredVariation(0.7, anchors="prior"),
    "interpolation": ClassInterpolation(),
    "interpolation_spherical": ClassInterpolation(spherical=True),
    "extrapolation": ClassExtrapolation(),
    "class_gaussian": ClassGaussian(),
    "mixture": MixtureComponents(24),
}


@pytest.fixture(params=POLICIES, scope="module")
def policy(request):
    return POLICIES[request.param].prepared(SPACE)


@pytest.mark.parametrize(("n_way", "n_images"), [(2, 2), (5, 16), (12, 3), (3, 25)])
def test_any_way_and_shot_with_class_structure_and_separation(policy, n_way, n_images):
    classes = draw_classes(policy, SPACE, 20, n_way, 0.35, make_rng(1))
    assert all(value.shape[:2] == (20, n_way) for value in classes.values())
    distances = torch.cdist(classes["centre"], classes["centre"])[:, ~torch.eye(n_way, dtype=torch.bool)]
    assert distances.min() >= 0.35 * (2 * DIM) ** 0.5 - 1e-4
    codes = policy.instances(classes, n_images, SPACE, make_rng(2))
    assert codes.shape == (20, n_way, n_images, DIM)
    assert codes.isfinite().all()
    mean = codes.mean(2)
    within = (codes - mean[:, :, None]).norm(dim=3).mean()
    between = torch.cdist(mean, mean)[:, ~torch.eye(n_way, dtype=torch.bool)].mean()
    assert within < 0.7 * between
    assert (codes.flatten(0, 1).std(1).mean(1) > 0.005).all(), "the images of a class differ"
    others = (codes[:, :, :, None] - classes["centre"][:, None, None]).norm(dim=4)
    assert (others.argmin(3) == torch.arange(n_way)[:, None]).float().mean() > 0.9


def test_draws_follow_from_the_generator_alone(policy):
    state = torch.get_rng_state()
    tasks, shape = LatentTasks(policy, 0.3), EpisodeShape(4, 1, 3)
    first = tasks.sample(POOL, shape, 5, 0, make_rng(3))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    torch.manual_seed(1)
    assert plan_hash(tasks.sample(POOL, shape, 5, 0, make_rng(3))) == plan_hash(first)
    assert plan_hash(tasks.sample(POOL, shape, 5, 0, make_rng(4))) != plan_hash(first)
    assert (first.source == DECODER).all()
    assert first.is_generated.all()


def test_fitting_is_deterministic_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    one, two = (MixtureComponents(10).prepared(SPACE) for _ in range(2))
    torch.testing.assert_close(one.mixture.means, two.mixture.means, atol=0, rtol=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize(("make", "low", "high"), [(ClassInterpolation, 0.3, 0.7), (ClassExtrapolation, 1.2, 1.6)])
def test_class_lines_go_through_pairs_of_real_images(make, low, high, spherical):
    policy = make(spherical=spherical)
    classes = draw_classes(policy, SPACE, 8, 3, 0.2, make_rng(0))
    codes = policy.instances(classes, 5, SPACE, make_rng(1))
    lam = classes["lam"]
    assert low <= lam.min() < lam.max() <= high
    assert (classes["pair"][..., 0] != classes["pair"][..., 1]).all()
    for task, slot in ((0, 0), (7, 2)):
        a, b = (ENCODINGS.means.view(N_CLASSES, N_IMAGES, DIM)[classes["pair"][task, slot, k]] for k in (0, 1))
        share = lam[task, slot, 0]
        if spherical:
            cosine = torch.cosine_similarity(a[:, None], b[None], dim=2)
            angle = cosine.acos()
            at_a, at_b = (share * angle).sin() / angle.sin(), ((1 - share) * angle).sin() / angle.sin()
            every = at_a[..., None] * a[:, None] + at_b[..., None] * b[None]
        else:
            every = share * a[:, None] + (1 - share) * b[None]
        gaps = (codes[task, slot][:, None, None] - every).norm(dim=3).flatten(1)
        assert gaps.min(1).values.max() < 1e-4
        pairs = gaps.argmin(1)
        assert len(set((pairs // N_IMAGES).tolist())) == 5, "no image of A is used twice"
        assert len(set((pairs % N_IMAGES).tolist())) == 5, "nor of B"


def test_encoded_noise_samples_the_posterior_and_can_keep_the_real_image():
    place = torch.arange(6).view(2, 3)
    classes = {"centre": ENCODINGS.means[place], "place": place}
    codes = EncodedNoise(2.0).instances(classes, 4000, SPACE, make_rng(0))
    torch.testing.assert_close(codes.mean(2), ENCODINGS.means[place], atol=0.03, rtol=0)
    torch.testing.assert_close(codes.std(2), 2 * ENCODINGS.scales[place], atol=0.02, rtol=0)
    plan = LatentTasks(EncodedNoise(keep_real=True), 0.0).sample(POOL, EpisodeShape(4, 1, 3), 5, 0, make_rng(0))
    assert (plan.source[..., 0] == TABLE).all()
    assert (plan.source[..., 1:] == DECODER).all()
    assert len(plan.z) == 5 * 4 * 3
    near = (plan.z.view(5, 4, 3, DIM) - ENCODINGS.means[plan.rows[..., :1]]).abs() / ENCODINGS.scales[
        plan.rows[..., :1]
    ]
    assert near.mean() == pytest.approx((2 / torch.pi) ** 0.5, abs=0.05), "the codes are around the image that is kept"


def test_transferred_variation_adds_differences_of_two_images_of_one_class():
    place = torch.tensor([[0, 100]])
    codes = TransferredVariation(0.5).instances(
        {"centre": ENCODINGS.means[place], "place": place}, 6, SPACE, make_rng(0)
    )
    by_class = ENCODINGS.means.view(N_CLASSES, N_IMAGES, DIM)
    every = 0.5 * (by_class[:, :, None] - by_class[:, None]).flatten(0, 2)
    for slot in range(2):
        deltas = codes[0, slot] - ENCODINGS.means[place[0, slot]]
        assert (deltas[:, None] - every).norm(dim=2).amin(1).max() < 1e-4
        assert deltas.norm(dim=1).min() > 0.1, "never a pair of one image twice"


def test_class_gaussian_has_the_moments_of_the_class_shrunk_to_the_common_covariance():
    for space in (SPACE, few_images()):  # more images than dimensions, and fewer
        n_classes = len(space.encodings.counts)
        fitted = ClassGaussian(shrinkage=0.4, scale=2.0).prepared(space)
        codes = [torch.cov(of.T) for of in space.encodings.means.split(N_IMAGES)]
        common = sum(codes) / n_classes
        for c in range(0, n_classes, 7):
            of = slice(c * N_IMAGES, (c + 1) * N_IMAGES)
            found = fitted.own[of].T @ fitted.own[of] + fitted.common.T @ fitted.common
            torch.testing.assert_close(found, 4 * (0.6 * codes[c] + 0.4 * common), atol=1e-4, rtol=1e-3)
        assert fitted.jitter == pytest.approx(2 * (1e-4 * common.diagonal().mean().item()) ** 0.5, rel=1e-3)
    fitted = ClassGaussian(shrinkage=0.4).prepared(SPACE)
    classes = {"centre": ENCODINGS.class_means[None, [7]], "component": torch.tensor([[7]])}
    drawn = fitted.instances(classes, 40_000, SPACE, make_rng(0))[0, 0]
    torch.testing.assert_close(drawn.mean(0), ENCODINGS.class_means[7], atol=0.01, rtol=0)
    expected = fitted.own[140:160].T @ fitted.own[140:160] + fitted.common.T @ fitted.common
    torch.testing.assert_close(torch.cov(drawn.T), expected + fitted.jitter**2 * torch.eye(DIM), atol=0.006, rtol=0)


def few_images() -> LatentSpace:
    """Codes of more dimensions than there are images."""
    means = torch.randn(2 * N_IMAGES, 3 * N_IMAGES, generator=make_rng("few"))
    counts = torch.tensor([N_IMAGES, N_IMAGES])
    encodings = Encodings(means, means.exp(), torch.arange(2 * N_IMAGES), counts.cumsum(0) - counts, counts)
    return LatentSpace(GaussianMixture.standard(3 * N_IMAGES), encodings)


def test_a_class_gaussian_does_not_use_images_of_other_classes():
    """Classes of different size: places beyond a small class's images count for nothing."""
    means = torch.zeros(5, 3)
    means[:2, 0] = torch.tensor([-1.0, 1.0])
    means[2:, 1] = torch.tensor([-3.0, 0.0, 3.0])
    counts = torch.tensor([2, 3])
    encodings = Encodings(means, means.exp(), torch.arange(5), counts.cumsum(0) - counts, counts)
    space = LatentSpace(GaussianMixture.standard(3), encodings)
    fitted = ClassGaussian(shrinkage=0.1).prepared(space)
    classes = {"centre": torch.zeros(1, 1, 3), "component": torch.tensor([[0]])}
    variances = fitted.instances(classes, 20_000, space, make_rng(0))[0, 0].var(0)
    torch.testing.assert_close(variances, torch.tensor([0.9 * 2 + 0.1 * 2 / 3, 0.1 * 6, 0.0]), atol=0.05, rtol=0)


def test_mixture_components_find_separate_clusters_and_can_be_the_priors_own():
    fitted = MixtureComponents(N_CLASSES).prepared(SPACE).mixture
    nearest = torch.cdist(ENCODINGS.class_means, fitted.means).amin(1)
    assert (nearest < 0.5).float().mean() > 0.7
    prior = GaussianMixture(torch.ones(3) / 3, torch.randn(3, DIM, generator=make_rng(0)), torch.ones(3, DIM))
    own = MixtureComponents(0, scale=2.0).prepared(LatentSpace(prior)).mixture
    assert torch.equal(own.means, prior.means)
    assert torch.equal(own.scales, 2 * prior.scales)
    assert not MixtureComponents(0).uses_encodings
    with pytest.raises(UserError, match="a single component"):
        MixtureComponents(0).prepared(SPACE)


def test_moving_along_lines_and_great_circles():
    start, end = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    torch.testing.assert_close(move(start, end, 0.5, False), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(move(start, end, 0.5, True), torch.tensor([2**0.5, 2**0.5]))
    torch.testing.assert_close(move(start, end, 2.0, True), torch.tensor([-2.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(move(start, end, -1.0, False), torch.tensor([4.0, -2.0]))
    torch.testing.assert_close(move(start, 3 * start, 0.5, True), 2 * start, msg="codes in one line move straight")
    torch.testing.assert_close(move(start, -start, 0.25, True), start / 2)


def test_two_classes_of_an_episode_are_never_the_same_component():
    prepared = ClassGaussian().prepared(SPACE)
    classes = draw_classes(prepared, SPACE, 50, N_CLASSES, 0.0, make_rng(0))
    assert all(len(set(task)) == N_CLASSES for task in classes["component"].tolist())


def test_clusters_are_real_images_that_lie_together():
    tasks = ClusterTasks(n_partitions=4, n_clusters=30).prepared(POOL)
    shape = EpisodeShape(5, 1, 4)
    tasks.check(POOL, shape)
    plan = tasks.sample(POOL, shape, 40, 0, make_rng(0))
    assert plan.is_plain
    assert plan.is_generated.all()
    assert all(len(set(task.flatten().tolist())) == 25 for task in plan.rows), "no image twice in an episode"
    codes = ENCODINGS.means[plan.rows]
    mean = codes.mean(2)
    assert (codes - mean[:, :, None]).norm(dim=3).mean() < 0.6 * torch.cdist(mean, mean).sum() / (40 * 20)
    with pytest.raises(UserError, match="n_way is 40"):
        tasks.check(POOL, EpisodeShape(40, 1, 4))


def test_partitions_hold_every_image_once_and_differ():
    first, second = (partition(ENCODINGS, 30, n) for n in range(2))
    for made in (first, second):
        assert sorted(made.rows.tolist()) == ENCODINGS.rows.tolist()
        assert int(made.counts.sum()) == len(ENCODINGS.rows)
        assert (made.counts.diff() <= 0).all()
    assert first.counts.tolist() != second.counts.tolist()
    cluster = torch.repeat_interleave(torch.arange(30), first.counts)[first.rows.argsort()]
    assert (
        cluster.view(N_CLASSES, N_IMAGES).mode(1).values[:, None] == cluster.view(N_CLASSES, N_IMAGES)
    ).float().mean() > 0.7


@pytest.mark.parametrize("policy", [EncodedNoise(), TransferredVariation(), RandomOther(0.2, anchors="images")])
def test_generated_instances_stay_in_their_classes_and_are_a_share_of_the_images(policy):
    tasks = GeneratedInstances(RealTasks(rotations=True), policy, share=0.3).prepared(POOL)
    assert tasks.needs == {"decoder", "encoder", "turns"}
    generated, seen = 0, 0
    for step in range(20):
        plan = tasks.sample(POOL, EpisodeShape(4, 1, 3), 2, step, make_rng(step))
        assert not plan.is_generated.any()
        decoded = plan.source == DECODER
        generated, seen = generated + int(decoded.sum()), seen + decoded.numel()
        assert generated == int(0.3 * seen + 1e-6)
        # the code is nearest to the mean of the class of the image that stood there
        nearest = torch.cdist(plan.z, ENCODINGS.class_means).argmin(1)
        assert (nearest == TABLE_.class_ids[plan.rows[decoded]]).float().mean() > 0.8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassInterpolation(0.2, 1.1), "low=0.2, high=1.1"),
        (lambda: ClassExtrapolation(0.5, 2.0), "low=0.5"),
        (lambda: ClassGaussian(shrinkage=0.0), "found 0.0"),
        (lambda: EncodedNoise(-1.0), "found -1.0"),
        (lambda: MixtureComponents(1), "found 1"),
        (lambda: MixtureComponents(10_000).prepared(SPACE), "there are 480 images"),
        (lambda: ClusterTasks(n_clusters=10_000).prepared(POOL), "there are 480 images"),
        (lambda: ClusterTasks(n_partitions=0), "found 0"),
        (lambda: GeneratedInstances(RealTasks(), PriorNoise()), "anchors: images"),
        (lambda: LatentTasks(PriorNoise(), 9.0).check(POOL, EpisodeShape(5, 1, 1)), "separation 9"),
    ],
)
def test_wrong_settings_are_refused_with_what_was_found(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_default_separation_that_the_classes_do_not_have_is_halved_with_a_note():
    """Encodings of a generator of three training steps lie close together, and the default of the YAML failed."""
    near = replace(ENCODINGS, means=ENCODINGS.means * 0.02)
    pool = replace(POOL, encodings=near)
    tasks = LatentTasks(ClassInterpolation(), separation=0.2).prepared(pool)
    shape = EpisodeShape(5, 1, 2)
    tasks.check(pool, shape)
    [note] = MixedTasks(RealTasks(), tasks).notes
    assert note.startswith("no 5 classes have separation 0.2 in this generator's latent space")
    assert 0 < float(re.search(r"so (\S+) is used", note)[1]) < 0.2
    plan = tasks.sample(pool, shape, 20, 0, make_rng(0))
    assert torch.equal(plan.z, tasks.sample(pool, shape, 20, 0, make_rng(0)).z), "still a function of the draw"
    tasks.check(pool, shape)
    assert tasks.notes == [note], "the same each time, after a resume too"


def test_a_separation_that_can_be_had_is_kept_without_a_note():
    tasks = LatentTasks(PriorNoise(), separation=0.3)
    tasks.check(POOL, EpisodeShape(5, 1, 1))
    assert tasks.notes == []
    assert tasks._possible == {5: 0.3}


def test_classes_that_do_not_differ_at_all_are_refused_with_the_option():
    one = replace(POOL, encodings=replace(ENCODINGS, means=torch.zeros_like(ENCODINGS.means)))
    with pytest.raises(UserError, match=r"5 different classes were not found .*; lower n_way"):
        LatentTasks(ClassInterpolation(), separation=0.2).check(one, EpisodeShape(5, 1, 1))


@pytest.mark.parametrize(
    "policy", [ClassGaussian(), ClassInterpolation(), ClassExtrapolation(), TransferredVariation()]
)
def test_policies_of_classes_refuse_classes_of_one_image(policy):
    """Bug: without labels each class is one image, and these would draw that image as support and as query."""
    n = N_CLASSES * N_IMAGES
    single = replace(ENCODINGS, firsts=torch.arange(n), counts=torch.ones(n, dtype=torch.long))
    with pytest.raises(UserError, match=rf"{type(policy).__name__} needs a class with two images"):
        policy.prepared(replace(SPACE, encodings=single))
