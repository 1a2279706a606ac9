"""Learners that infer a deformation between support image and query: properties, gradients, fusion, checkpoints."""

from dataclasses import replace

import pytest
import torch
from promises import order_of_support_does_not_matter, permuted_labels_permute_logits
from test_learners import make_batch
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.aligned import AlignedRelation
from genmeta.learners.bending import BendingRegistration
from genmeta.learners.checkpoint import describe_learner, load_learner
from genmeta.learners.fused import Fused, Trained
from genmeta.learners.latent_likelihood import LatentLikelihood
from genmeta.learners.learned_registration import LearnedRegistration
from genmeta.learners.metric import PixelNearestNeighbour, ProtoNet
from genmeta.models.backbones import Conv4
from genmeta.models.deformation_prior import FlowPrior, GaussianPrior, described
from genmeta.models.redraw import DeformationRedrawer, PairEncoder
from genmeta.models.registration import Registration, bending, enlarge, gaussian_blur, identity_grid, scales
from genmeta.rng import make_rng
from genmeta.tasks.elastic import Elastic, deform


def aligned(stages=2, candidates=2):
    torch.manual_seed(0)
    learner = AlignedRelation(Conv4(1, 6, 16, "group"), candidates, channels=8, stages=stages, chunk=5)
    for layer in [learner.energy.judge, *([learner.registration.field, learner.registration.affine] if stages else [])]:
        torch.nn.init.normal_(layer.weight, std=0.1)  # as trained: new ones are the identity
    return learner.double().eval()


def likelihood(steps=3, n_background=0, **options):
    torch.manual_seed(0)
    redrawer, encoder = DeformationRedrawer(4, (1, 16, 16), channels=4), PairEncoder(4, (1, 16, 16), (4, 8), 16)
    learner = LatentLikelihood(None, steps, 2, 0.1, n_background, 50, redrawer, encoder, **options).double().eval()
    learner.background = torch.rand(learner.background.shape, generator=make_rng("b"), dtype=torch.float64)
    return learner


LEARNERS = {
    "aligned": aligned,
    "not_aligned": lambda: aligned(stages=0),
    "likelihood": likelihood,
    "background": lambda: likelihood(2, 3),
    "gauss_newton": lambda: likelihood(
        2, 3, search="gauss_newton", laplace=True, background_role="target", coarse=(9,)
    ),
    "bending": lambda: BendingRegistration(steps=3, candidates=(2, 2), chunk=7),
    "learned_registration": lambda: LearnedRegistration(steps=2, candidates=(2, 2), chunk=7).double().eval(),
    "fused": lambda: Fused([aligned(), PixelNearestNeighbour()]).double().eval(),
}


def glyph_batch(n_way=3, noise=0.0, dtype=torch.float64):
    """One support image a class: a few strokes; the query is the same image, moved a little."""
    rng = make_rng("strokes")
    x = torch.zeros(n_way, 1, 28, 28, dtype=dtype)
    for image in x:
        for _ in range(3):
            a, b = (
                5 + 18 * torch.rand(2, generator=rng, dtype=dtype),
                5 + 18 * torch.rand(2, generator=rng, dtype=dtype),
            )
            for t in torch.linspace(0, 1, 60, dtype=dtype):
                row, column = ((1 - t) * a + t * b).round().long()
                image[0, row : row + 2, column : column + 2] = 1
    moved = deform(x.float(), Elastic().draw(n_way, rng=make_rng("moved"))).to(dtype)
    batch = make_batch(1, n_way, 1, 1, 28, dtype)
    y = torch.arange(n_way)[None]
    return replace(batch, support_x=x[None], support_y=y, query_x=moved[None], query_y=y)


@pytest.mark.parametrize("name", LEARNERS)
def test_order_of_support_and_names_of_classes_do_not_matter(name):
    learner, batch = LEARNERS[name](), make_batch(n_shot=1)
    order_of_support_does_not_matter(learner, batch)
    permuted_labels_permute_logits(learner, batch)


@pytest.mark.parametrize("name", LEARNERS)
def test_each_query_is_judged_alone(name):
    """Inductive: neither the other queries of the task nor that they are a bijection with the classes can be used."""
    learner, batch = LEARNERS[name](), make_batch(n_shot=1, n_query=2)
    logits = learner(batch)
    for q in (0, 3):
        alone = replace(batch, query_x=batch.query_x[:, q : q + 1], query_y=batch.query_y[:, q : q + 1])
        torch.testing.assert_close(learner(alone)[:, 0], logits[:, q], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", LEARNERS)
def test_works_in_inference_mode_and_with_more_shots(name):
    learner, batch = LEARNERS[name](), make_batch(n_shot=2, n_query=1)
    expected = learner(batch).detach()
    assert expected.shape == (2, 3, 3)
    assert expected.isfinite().all()
    with torch.inference_mode():
        torch.testing.assert_close(learner(batch), expected)


@pytest.mark.parametrize("name", ["aligned", "likelihood", "bending", "gauss_newton"])
def test_scores_of_a_pair_are_symmetric(name):
    """With one support image and one query a class, exchanging the two transposes the logits."""
    learner = LEARNERS[name]()
    if name == "aligned":
        learner.candidates = 3
    if name in ("likelihood", "gauss_newton"):
        learner.candidates, learner.n_background = 9, 0
    if name == "bending":
        learner.candidates = (3, 3)
    x = torch.rand(1, 6, 1, 16, 16, generator=make_rng(5), dtype=torch.float64)
    y = torch.arange(3)[None]
    batch = replace(make_batch(1), support_x=x[:, :3], support_y=y, query_x=x[:, 3:], query_y=y)
    swapped = replace(batch, support_x=x[:, 3:], query_x=x[:, :3])
    torch.testing.assert_close(learner(batch)[0], learner(swapped)[0].T, atol=1e-8, rtol=1e-8)


def test_the_gaussian_blur_is_a_convolution_with_a_normal_density():
    x = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    x[..., 15, 15] = 1
    blurred = gaussian_blur(x, 2.0)[0, 0]
    assert blurred.sum().item() == pytest.approx(1, abs=1e-12)
    assert (blurred[15, 17] / blurred[15, 15]).item() == pytest.approx(torch.tensor(-0.5).exp().item(), rel=1e-6)
    torch.testing.assert_close(blurred, blurred.T)
    assert torch.equal(gaussian_blur(x, 0), x)


def test_enlarging_is_torchs_bicubic_interpolation():
    field = torch.randn(2, 2, 7, 5, generator=make_rng(0), dtype=torch.float64)
    expected = F.interpolate(field, (28, 20), mode="bicubic", align_corners=False)
    torch.testing.assert_close(enlarge(field, 28, 20), expected)


def test_a_training_can_follow_a_test_in_one_process():
    """What is kept of the interpolation was made in inference mode, and gradients in float64 could not use it."""
    with torch.inference_mode():
        enlarge(torch.zeros(1, 2, 3, 3, dtype=torch.float64), 11, 11)
    field = torch.zeros(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    enlarge(field, 11, 11).square().sum().backward()


def test_the_identity_grid_takes_every_pixel_from_its_own_place():
    x = torch.rand(2, 1, 12, 20, generator=make_rng(0), dtype=torch.float64)
    torch.testing.assert_close(F.grid_sample(x, identity_grid(x).expand(2, -1, -1, -1), align_corners=False), x)


def test_bending_energy_of_known_displacements():
    """X ↦ x² / 2 has second derivative 1 everywhere; affine maps have no bending energy. In half widths."""
    grid = identity_grid(torch.zeros(1, 1, 40, 40, dtype=torch.float64))
    x, y = grid.unbind(-1)
    nothing = torch.zeros_like(x)
    assert bending(torch.stack([0.3 * x - y + 1, x], -1)).item() == pytest.approx(0, abs=1e-18)
    assert bending(torch.stack([x**2 / 2, nothing], -1)).item() == pytest.approx(1)
    assert bending(torch.stack([nothing, x * y], -1)).item() == pytest.approx(2)


def test_a_new_registration_is_the_identity_and_its_gradients_are_right():
    torch.manual_seed(0)
    registration = Registration(channels=8, stages=2).double()
    x, y = scales(torch.rand(2, 2, 1, 8, 8, generator=make_rng(0), dtype=torch.float64).flatten(0, 1)).chunk(2)
    torch.testing.assert_close(registration(x, y).moved, x)
    for layer in (registration.field, registration.affine):
        torch.nn.init.normal_(layer.weight, std=0.1)
    moving = x.requires_grad_()
    assert torch.autograd.gradcheck(lambda m: registration(m, y).displacement, (moving,), fast_mode=True)


def test_the_loss_of_aligned_comparison_has_right_gradients_and_trains():
    learner, batch = aligned().train(), make_batch(n_tasks=1, n_shot=1, n_query=1, noise=0.1)
    weight = learner.energy.sums.weight

    def loss(w):
        return torch.func.functional_call(_Loss(learner), {"learner.energy.sums.weight": w}, (batch,))

    assert torch.autograd.gradcheck(loss, (weight.detach().clone().requires_grad_(),), fast_mode=True)
    optimizer = torch.optim.Adam(learner.parameters(), 3e-3)
    losses = []
    for _ in range(15):
        value, logits = learner.loss(batch)
        assert logits.shape == (1, 3, 3)
        optimizer.zero_grad()
        value.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.7 * losses[0]


def test_colour_pictures_of_84_pixels_train_too():
    """Bug: what takes one channel, or 28 pixels, for given. Blots of three colours, moved by four pixels."""
    rng = make_rng("colour")
    still = torch.nn.functional.interpolate(torch.rand(3, 3, 6, 6, generator=rng), size=84, mode="bicubic").clamp(0, 1)
    moved, labels = still.roll((4, -4), (2, 3)), torch.arange(3)[None]
    batch = EpisodeBatch(still[None], labels, moved[None], labels, torch.zeros(1, 3, dtype=torch.bool))
    torch.manual_seed(0)
    learner = AlignedRelation(Conv4(3, 6, 84, "group"), candidates=3, channels=8, stages=2).train()
    optimizer = torch.optim.Adam(learner.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        value, _ = learner.loss(batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.7 * losses[0]
    assert learner.eval()(batch).shape == (1, 3, 3)


class _Loss(torch.nn.Module):
    def __init__(self, learner):
        super().__init__()
        self.learner = learner

    def forward(self, batch):
        return self.learner.loss(batch)[0]


def test_classes_that_are_no_candidates_stand_below_in_the_order_of_the_protonet():
    learner = aligned(candidates=2)
    batch = make_batch(n_way=3, n_shot=1)
    logits, near = learner(batch), ProtoNet(learner.backbone)(batch)
    last = near.argmin(2)
    torch.testing.assert_close(logits.argmin(2), last)
    all_of_them = learner
    all_of_them.candidates = 3
    exact = all_of_them(batch)
    chosen = near.topk(2, 2).indices
    torch.testing.assert_close(logits.gather(2, chosen), exact.gather(2, chosen))


def test_more_steps_never_explain_less_and_the_search_moves_towards_the_truth():
    """Drawn from a known code: the amortised start of an untrained encoder is far, the search gets nearer."""
    batch = glyph_batch()
    torch.manual_seed(0)
    redrawer, encoder = DeformationRedrawer(4, (1, 28, 28), channels=4), PairEncoder(4, (1, 28, 28), (4, 8), 16)
    torch.nn.init.normal_(redrawer.affine.weight, std=0.1)
    redrawer, encoder = redrawer.double(), encoder.double()
    x = batch.support_x[0]
    z = torch.tensor([[1.0, -1.0, 0.5, 0.0]], dtype=torch.float64).expand(3, -1)
    other = redrawer.redraw(x, z).detach()
    energies = []
    for steps in (0, 5, 40):
        learner = LatentLikelihood(None, redrawer=redrawer, encoder=encoder).double().eval()
        found, energy = learner.infer(x, other, steps)
        energies.append(energy)
        torch.testing.assert_close(-learner.log_likelihood(x, other, steps), energy)
    assert (energies[1] <= energies[0]).all()
    assert (energies[2] <= energies[1]).all()
    start = encoder(x, other)[0]
    assert (energies[2] < 0.5 * energies[0]).all()
    drawn = (redrawer.redraw(x, found) - other).square().flatten(1).sum(1)
    assert (drawn < 0.3 * (redrawer.redraw(x, start) - other).square().flatten(1).sum(1)).all()


def test_registration_by_hand_finds_a_shift():
    """Moving the image by 0.2 half widths: the displacement at the ink is that, and the energy almost vanishes."""
    x = glyph_batch(1).support_x[0].float()
    moved = deform(x, torch.tensor([[0, 0, 0.2, 0, 0, 0, *[0.0] * 32]]))
    learner = BendingRegistration(steps=60)
    energy, displacement = learner.register(x, moved, 0, 1.0)
    start, _ = BendingRegistration(steps=1, step_size=1e-9).register(x, moved, 0, 1.0)
    assert energy.item() < 0.15 * start.item()
    ink = moved[0, 0] > 0.5
    assert displacement[0][ink][:, 0].mean().item() == pytest.approx(0.2, abs=0.03)
    assert displacement[0][ink][:, 1].mean().item() == pytest.approx(0.0, abs=0.03)


def test_registration_by_hand_recognises_moved_drawings():
    batch = glyph_batch(5, dtype=torch.float32)
    assert (BendingRegistration()(batch).argmax(2) == batch.query_y).all()


def test_fused_logits_are_the_weighted_sum_and_only_weights_train():
    members = [ProtoNet(Conv4(1, 4, 16, "group")), PixelNearestNeighbour()]
    learner = Fused(members).train()
    batch = make_batch(dtype=torch.float32)
    assert [name for name, p in learner.named_parameters() if p.requires_grad] == ["log_weight"]
    loss, logits = learner.loss(batch)
    weights = learner.log_weight.exp()
    expected = sum(w * member(batch) for w, member in zip(weights, members, strict=True))
    torch.testing.assert_close(logits, expected)
    spread = (weights.detach()[:, None, None] * torch.stack([m(batch).std(-1) for m in members])).flatten(1).mean(1)
    torch.testing.assert_close(spread, torch.ones(2))  # all begin alike, whatever their scale
    loss.backward()
    assert learner.log_weight.grad.abs().min() > 0
    before = learner.log_weight.detach().clone()
    learner.loss(make_batch(n_way=3, noise=0.9, dtype=torch.float32))
    assert torch.equal(learner.log_weight, before)  # set once


def test_fused_without_training_is_the_mean_of_the_logits_of_other_seeds():
    torch.manual_seed(0)
    members = [Trained(learner=ProtoNet(Conv4(1, 4, 16, "running"))) for _ in range(3)]
    batch = make_batch(dtype=torch.float32)
    expected = torch.stack([member(batch) for member in members]).mean(0)
    torch.testing.assert_close(Fused(members).eval()(batch), expected)


def test_fused_puts_its_weight_on_the_member_that_is_right():
    right, noise = PixelNearestNeighbour(), ProtoNet(Conv4(1, 4, 16, "group"))
    batch = make_batch(n_tasks=8, noise=0.3, dtype=torch.float32)
    noise.forward = lambda batch: torch.randn(8, 12, 3, generator=make_rng("noise"))
    learner = Fused([right, noise]).train()
    optimizer = torch.optim.Adam(learner.parameters(), 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        learner.loss(batch)[0].backward()
        optimizer.step()
    scale = torch.stack([right(batch).std(), noise(batch).std()])
    weights = learner.log_weight.detach().exp() * scale
    assert weights[0] > 10 * weights[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AlignedRelation(Conv4(norm="batch")), "running"),
        (lambda: AlignedRelation(Conv4(), candidates=1), "candidates must be at least 2"),
        (lambda: Registration(reach=0.0), "reach must be in"),
        (lambda: BendingRegistration(stiffness=-1.0), "stiffness"),
        (lambda: LatentLikelihood(None), "expected one of genmeta fit --config generator/vae_deformation.yaml"),
        (lambda: LatentLikelihood("nowhere.ckpt"), "no such file"),
        (
            lambda: LatentLikelihood(None, coarse=[0]),
            "coarse: expected passes of a blur, at least 1 each, found \\[0\\]",
        ),
        (lambda: LatentLikelihood(None, search="newton"), "search: expected one of adam, gauss_newton, found 'newton'"),
        (lambda: FlowPrior(rank=1), "rank must be from 2 to 98"),
        (lambda: GaussianPrior().fit(torch.zeros(6, 98)), "at least 4 pairs of images"),
        (lambda: Fused([]), "at least one learner"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_sides_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="multiples of 4"):
        AlignedRelation(Conv4(1, 4, 18)).check(EpisodeShape(5, 1, 1), (1, 18, 18))


def test_a_described_learner_is_built_again_without_its_files(redrawer, tmp_path):
    """Trained by the command line for three steps; the checkpoint of the fused learner needs no member's file."""
    from genmeta.cli.main import main

    common = [
        *("--config=configs/learner/fused.yaml", "--config=configs/trainer/debug.yaml", f"--run.folder={tmp_path}"),
        *(
            "--run.wandb=off",
            "--data.val.n_episodes=2",
            "--data.test=[{n_way: 5, n_shot: 1, n_query: 2, n_episodes: 2}]",
        ),
    ]
    members = [
        {
            "class_path": "genmeta.learners.latent_likelihood.LatentLikelihood",
            "init_args": {"checkpoint": str(redrawer), "steps": 0},
        },
        {"class_path": "genmeta.learners.metric.PixelNearestNeighbour"},
    ]
    assert main(["fit", *common, "--run.name=fused", f"--model.learner.init_args.members={_json(members)}"]) == 0
    (best,) = tmp_path.glob("fused/*/checkpoints/best.ckpt")
    again = [{"class_path": "genmeta.learners.fused.Trained", "init_args": {"checkpoint": str(best)}}]
    assert main(["fit", *common, "--run.name=outer", f"--model.learner.init_args.members={_json(again)}"]) == 0
    (outer,) = tmp_path.glob("outer/*/checkpoints/best.ckpt")
    expected = load_learner(str(best)).learner
    best.rename(tmp_path / "moved.ckpt")
    loaded = load_learner(str(outer)).learner
    batch = make_batch(n_shot=1, n_query=1, size=28, dtype=torch.float32)
    scaled = loaded.log_weight.exp() * expected(batch)
    torch.testing.assert_close(loaded(batch), scaled)


def _json(value):
    import json

    return json.dumps(value)


def test_descriptions_reach_into_lists():
    config = {"class_path": "a.Fused", "init_args": {"members": [{"class_path": "b.C", "init_args": {"k": 1}}]}}
    assert describe_learner(config, PixelNearestNeighbour()) == config


@pytest.fixture(scope="module")
def drawn_by_six():
    """Twelve characters, each by six drawers, uint8 `[12, 6, 1, 28, 28]`."""
    x = glyph_batch(12, dtype=torch.float32).support_x[0]
    others = [deform(x, Elastic().draw(12, rng=make_rng("drawer", i))) for i in range(5)]
    return (torch.stack([x, *others], 1) * 255).byte()


@pytest.mark.parametrize("prior", [GaussianPrior, lambda: FlowPrior(epochs=3)], ids=["gaussian", "flow"])
def test_what_registrations_of_training_pairs_teach(prior, drawn_by_six):
    """Pairs of one class get the lower energy, also of classes that nothing was learned from; their displacements are
    likelier as such.
    """
    labels = torch.arange(8).repeat_interleave(6)  # 8 classes; 4 stay unseen
    learner = LearnedRegistration(n_pairs=40, n_rivals=5, prior=prior(), steps=12)
    learner.fit_statistics(drawn_by_six[:8].flatten(0, 1), labels)
    unseen = drawn_by_six[8:].float().div(255)
    first, second = unseen[:, 0], unseen[:, 1]
    rivals = unseen.roll(1, 0)[:, 1]
    found = [learner.registered(first, other) for other in (second, rivals)]
    energies = [
        learner.judged(first, other, torch.zeros(4), moved)
        for other, moved in zip((second, rivals), found, strict=True)
    ]
    assert (energies[0] < energies[1]).all()
    own, others = (learner.priors[0].log_prob(described(d.flatten(0, 1))).mean() for d in found)
    assert own > others
    fresh = LearnedRegistration(prior=prior())
    fresh.load_state_dict(learner.state_dict())
    torch.testing.assert_close(fresh.judged(first, rivals, torch.zeros(4), found[1]), energies[1])


def test_pairs_need_a_class_with_two_images(drawn_by_six):
    with pytest.raises(UserError, match="no class has two"):
        LearnedRegistration().fit_statistics(drawn_by_six[:3, 0], torch.arange(3))
