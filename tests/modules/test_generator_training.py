"""Training of generative models: whose step it is, running means, penalties, priors, processes, resume."""

import json
import math
import warnings
from functools import partial

import pytest
import torch
from conftest import ToySource, make_table, slow_but
from lightning.pytorch.callbacks import ModelCheckpoint
from test_training import trainer_for, weights
from torch import nn

from genmeta.episode import EpisodeShape
from genmeta.errors import UserError
from genmeta.models.checkpoint import load_generator
from genmeta.models.decoder import LatentDecoder
from genmeta.models.diff_augment import DiffAugment
from genmeta.models.diffusion import Diffusion
from genmeta.models.flow_matching import FlowMatching
from genmeta.models.gan_networks import ConvDiscriminator, ConvGenerator, Generator
from genmeta.models.gan_objectives import Hinge, Wasserstein
from genmeta.models.latent_flow import CodeNetwork
from genmeta.models.likelihoods import Bernoulli, DiscretisedLogistic, Gaussian
from genmeta.models.redraw import DeformationRedrawer, PairEncoder, PixelRedrawer
from genmeta.models.unet import UNet
from genmeta.models.vae_networks import ConvDecoder, ConvEncoder
from genmeta.models.vae_priors import ClassPrior, FlowPrior, VampPrior
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.gan_module import GANModule
from genmeta.modules.generative_module import CodesModule, GenerativeModule
from genmeta.modules.image_data import ImageDataModule
from genmeta.modules.latent_flow_module import LatentFlowModule
from genmeta.modules.ode_module import ODEModule, ODERedrawModule
from genmeta.modules.pictures import interpolations
from genmeta.modules.redraw_module import RedrawModule
from genmeta.modules.vae_module import VAEModule
from genmeta.rng import make_rng
from genmeta.tasks.evaluated import Episodes
from genmeta.tasks.latent import LatentTasks
from genmeta.tasks.policies import ClassInterpolation, EncodedNoise, RandomOther

SHAPE = (1, 16, 16)


def images_of(split_file: str, **options) -> ImageDataModule:
    settings = {"batch_size": 16, "steps_per_epoch": 4, "feature_steps": 2, **options}
    return ImageDataModule(ToySource(), split_file, **settings)


def gan(conditional: bool = False, encoder: bool = False, **options) -> GANModule:
    torch.manual_seed(0)
    generator = ConvGenerator(4, SHAPE, (4, 4), class_dim=2 if conditional else 0, max_classes=12)
    discriminator = ConvDiscriminator(SHAPE, (4, 4), projection=conditional, max_classes=12)
    return GANModule(generator, discriminator, encoder=ConvEncoder(4, SHAPE) if encoder else None, **options)


def vae(**options) -> VAEModule:
    torch.manual_seed(0)
    settings = {"importance_samples": 3, **options}
    return VAEModule(ConvEncoder(4, SHAPE), ConvDecoder(4, SHAPE), **settings)


def flow_prior() -> FlowPrior:
    torch.manual_seed(1)
    return FlowPrior(4, transforms=2, hidden=8, bins=3)


def diffusion(class_dim: int = 0, guidance: float = 1.0, **options) -> ODEModule:
    torch.manual_seed(0)
    network = UNet(SHAPE, (4, 8), class_dim=class_dim, max_classes=12)
    return ODEModule(Diffusion(network, steps=3, guidance=guidance), **{"ema_decay": 0.9, **options})


def flow(class_dim: int = 0, **options) -> ODEModule:
    torch.manual_seed(0)
    network = UNet(SHAPE, (4, 8), class_dim=class_dim, max_classes=12)
    return ODEModule(FlowMatching(network, steps=2, encoding_steps=3, **options), ema_decay=0.9)


def flow_redraw() -> ODERedrawModule:
    torch.manual_seed(0)
    return ODERedrawModule(FlowMatching(UNet(SHAPE, (4, 8), given=True), steps=2, guidance=1.5), ema_decay=0.9)


def latent_flow(shape=SHAPE, channels=(4, 4), **options) -> LatentFlowModule:
    torch.manual_seed(0)
    ode = FlowMatching(CodeNetwork(4, hidden=8, layers=1), steps=2, encoding_steps=3)
    encoder, decoder = ConvEncoder(4, shape, channels, 16), ConvDecoder(4, shape, channels, 16)
    return LatentFlowModule(ode, 0.9, **{"encoder": encoder, "decoder": decoder, "importance_samples": 3, **options})


def redraw(pixels: bool = False, flow: bool = False) -> RedrawModule:
    torch.manual_seed(0)
    redrawer = PixelRedrawer(4, SHAPE) if pixels else DeformationRedrawer(4, SHAPE, channels=4)
    return RedrawModule(PairEncoder(4, SHAPE), redrawer, warmup_steps=3, latent_prior=flow_prior() if flow else None)


MODELS = {
    "gan": gan,
    "gan with all": lambda: gan(
        conditional=True,
        encoder=True,
        objective=Hinge(),
        augment=DiffAugment(),
        r1=1.0,
        gradient_penalty=1.0,
        penalty_every=2,
        discriminator_steps=2,
        ema_decay=0.9,
        gradient_clip=1.0,
        accumulate=2,
    ),
    "vae": vae,
    "vae second stage": lambda: vae(second_stage=3, free_bits=0.1, warmup_steps=5, beta=0.5),
    "vae vamp": lambda: vae(latent_prior=VampPrior(5, SHAPE), likelihood=Bernoulli(binarise=True)),
    "vae class": lambda: vae(latent_prior=ClassPrior(4, 12), likelihood=Gaussian()),
    "vae logistic": lambda: vae(likelihood=DiscretisedLogistic()),
    "vae flow": lambda: vae(latent_prior=flow_prior(), warmup_steps=3),
    "diffusion": lambda: diffusion(),
    "diffusion class": lambda: diffusion(class_dim=3, guidance=1.5),
    "flow": lambda: flow(coupled=True),
    "flow class": lambda: flow(class_dim=3, guidance=1.5, solver="heun", time_std=0.0),
    "latent flow": latent_flow,
    "redraw flow matching": flow_redraw,
    "redraw": lambda: redraw(pixels=True),
    "deformation": redraw,
    "deformation flow": lambda: redraw(flow=True),
}


def fit(module, data, folder, steps=None, epochs=2, **options):
    checkpoint = ModelCheckpoint(dirpath=folder, filename="a", every_n_train_steps=options.pop("every", None))
    limits = {"max_steps": steps} if steps else {"max_epochs": epochs}
    trainer = trainer_for(folder, enable_checkpointing=True, callbacks=[checkpoint], **limits, **options)
    with warnings.catch_warnings():  # of forking with threads (Python 3.12)
        warnings.simplefilter("ignore")
        trainer.fit(module, data)
    return trainer


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_reports_and_comes_back_from_its_checkpoint(name, toy_split_file, tmp_path):
    module = MODELS[name]()
    before = weights(module)
    trainer = fit(module, images_of(toy_split_file, rotations="redraw" in name), tmp_path)
    assert not torch.equal(before, weights(module))
    metrics = trainer.callback_metrics
    assert {f"val/{key}" for key in ("fid", "kid", "precision", "recall", "density", "coverage", "diversity")} <= set(
        metrics
    )
    assert all(value.isfinite() for value in metrics.values())
    report = module.report()
    assert report["fid"] == pytest.approx(float(metrics["val/fid"]), rel=1e-4), (
        "metrics of validation and report differ"
    )
    assert {"recognisability", "spread", "memorisation", "collapsed"} <= set(report)
    assert all(math.isfinite(value) for value in report.values())
    loaded = load_generator(tmp_path / "a.ckpt")
    module.eval()
    if isinstance(module, CodesModule):
        z = module.prior().sample(5, rng=make_rng(1))
        torch.testing.assert_close(loaded.prior.sample(5, rng=make_rng(1)), z)
        torch.testing.assert_close(loaded.decode(z), module.decode(z).detach())
        assert torch.equal(module.sample(5, make_rng(1)), module.sample(5, make_rng(1)))
        assert interpolations(module, 2, 3).shape == (6, *SHAPE)
        if module.latent_encoder is not None:
            x = torch.rand(3, *SHAPE)
            torch.testing.assert_close(loaded.encode(x), module.latent_encoder(x))
            assert "reconstruction_unseen" in report
    else:
        x, z = torch.rand(3, *SHAPE), torch.randn(3, loaded.latent_dim)
        torch.testing.assert_close(loaded.redraw(x, z), module.networks()["redrawer"][0].redraw(x, z))
    if name.startswith("vae"):
        assert report["iwae_held_out"] >= report["elbo_held_out"] - 1, "more samples give a tighter bound"


def test_a_latent_flow_of_large_images_trains_and_its_vae_learns_nothing_from_it(tmp_path):
    """84 pixels a side; the VAE ends as it does without the flow, draw by draw."""
    path = tmp_path / "split.json"
    names = make_table().class_names
    path.write_text(json.dumps({"dataset": "toy", "train": names[:12], "val": names[12:18], "test": names[18:]}))
    source = ToySource(84)

    def images() -> ImageDataModule:
        return ImageDataModule(source, str(path), batch_size=16, steps_per_epoch=3, feature_steps=2)

    shape, channels = (1, 84, 84), (4, 4, 4, 4)
    module = latent_flow(shape, channels)
    before = weights(module.ode)
    fit(module, images(), tmp_path / "flow", epochs=1)
    assert not torch.equal(before, weights(module.ode))
    torch.manual_seed(0)
    CodeNetwork(4, hidden=8, layers=1)  # draws as many initial weights
    plain = VAEModule(ConvEncoder(4, shape, channels, 16), ConvDecoder(4, shape, channels, 16), importance_samples=3)
    fit(plain, images(), tmp_path / "vae", epochs=1)
    torch.testing.assert_close(weights(module.encoder), weights(plain.encoder))
    loaded = load_generator(tmp_path / "flow" / "a.ckpt")
    assert loaded.latent_dim == 4
    assert loaded.decode(loaded.prior.sample(2, rng=make_rng(0))).shape == (2, *shape)


def test_policies_run_in_the_base_of_a_flow(toy_split_file, tmp_path):
    """Codes of a plan, encodings among them, are those that the checkpoint's decoder and encoder speak of."""
    module = vae(latent_prior=flow_prior(), optimizer=partial(torch.optim.Adam, lr=0.02))
    fit(module, images_of(toy_split_file), tmp_path)
    loaded = load_generator(tmp_path / "a.ckpt")
    for policy in (RandomOther(0.3), EncodedNoise(), ClassInterpolation()):
        tasks, test = LatentTasks(policy, 0.1), Episodes(2, 1, 1)
        data = EpisodicDataModule(
            ToySource(), toy_split_file, tasks, EpisodeShape(3, 1, 2), test, [test], generator=str(tmp_path / "a.ckpt")
        )
        data.setup("fit")
        pool = data.pools["train"]
        assert torch.equal(pool.prior.means, torch.zeros(1, 4))
        batch = data.on_after_batch_transfer(data.train_plan(0), 0)
        images = torch.cat([batch.support_x, batch.query_x], 1)
        assert 0 <= images.min() <= images.max() <= 1
        if policy.uses_encodings:
            some = data.table.images[pool.encodings.rows[:5]].float() / 255
            torch.testing.assert_close(pool.encodings.means[:5], loaded.encode(some)[0], atol=1e-5, rtol=1e-4)
            assert not torch.allclose(module.encoder(some)[0], loaded.encode(some)[0], atol=1e-2)


def test_deviation_of_the_images_is_measured_and_stays(toy_split_file, tmp_path):
    module, data = diffusion(), images_of(toy_split_file)
    fit(module, data, tmp_path)
    expected = (data.rendered(data.train_rows) * 2 - 1).std()
    for ode in (module.ode, module.decoder.ode, load_generator(tmp_path / "a.ckpt").networks["encoder"].ode):
        torch.testing.assert_close(ode.sigma_data, expected)
    assert module.decoder.ode is module.average.module
    assert not torch.equal(weights(module.average.module), weights(module.ode))


def test_each_network_moves_only_in_its_own_step(toy_split_file, tmp_path):
    for still in (0, 1, 2):
        module = gan(encoder=True, ema_decay=0.5)
        made = []

        def make(parameters, made=made, still=still):
            made.append(1)
            return torch.optim.SGD(parameters, lr=0.0 if len(made) - 1 == still else 0.1)

        module.optimizer = make
        networks = (module.generator, module.discriminator, module.encoder)
        before = [weights(network) for network in networks]
        fit(module, images_of(toy_split_file), tmp_path / str(still), epochs=1)
        moved = [not torch.equal(a, weights(n)) for a, n in zip(before, networks, strict=True)]
        assert moved == [number != still for number in range(3)]
    assert all(p.requires_grad for p in module.discriminator.parameters())


class Recorder(nn.Module):
    """A discriminator that notes at each call how many images it saw and whether it would learn."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, []

    def forward(self, x):
        self.calls.append((len(x), next(self.network.parameters()).requires_grad))
        return self.network(x)


def test_discriminator_steps_and_penalties_come_when_they_should(toy_split_file, tmp_path):
    module = gan(objective=Wasserstein(), gradient_penalty=10.0, penalty_every=3, discriminator_steps=2)
    module.discriminator = Recorder(module.discriminator)
    fit(module, images_of(toy_split_file, steps_per_epoch=6), tmp_path, epochs=1)
    step, generator, penalty = (32, True), (16, False), (16, True)
    assert module.discriminator.calls == [
        step,
        penalty,
        step,
        generator,
        step,
        step,
        penalty,
        generator,
        step,
        step,
        generator,
    ]


def test_accumulated_batches_give_the_step_of_their_mean(toy_split_file, tmp_path):
    """A batch of 16 in one part or in two gives the same step of a network without noise or batch statistics."""

    class Mean(Generator):
        """Every image is the same, learned one."""

        def __init__(self):
            super().__init__()
            self.latent_dim, self.image_shape, self.init_args = 1, SHAPE, {}
            self.image = nn.Parameter(torch.zeros(SHAPE))

        def forward(self, z):
            return self.image.expand(len(z), *SHAPE)

    results = []
    for accumulate in (1, 2):
        torch.manual_seed(0)
        module = GANModule(Mean(), ConvDiscriminator(SHAPE, (4, 4)), accumulate=accumulate, gradient_clip=0.05)
        module.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.1)
        data = DoubleImages(ToySource(), toy_split_file, batch_size=16, steps_per_epoch=4, feature_steps=2)
        fit(module.double(), data, tmp_path / str(accumulate), epochs=1)
        results.append(weights(module))
    torch.testing.assert_close(results[1], results[0], atol=1e-10, rtol=0)


class DoubleImages(ImageDataModule):
    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        rendered = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return type(rendered)(rendered.images.double(), rendered.partners.double(), rendered.labels, rendered.rng)


def test_running_mean_of_the_generator_by_hand(toy_split_file, tmp_path):
    module = gan(ema_decay=0.7)
    seen = []
    original = module.average.update_parameters

    def spy(network):
        seen.append(weights(network))
        original(network)

    module.average.update_parameters = spy
    fit(module, images_of(toy_split_file, steps_per_epoch=9), tmp_path, epochs=1)
    expected = seen[0]
    for n, current in enumerate(seen[1:], 1):
        decay = min(0.7, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * current
    torch.testing.assert_close(weights(module.average.module), expected)
    assert not torch.equal(weights(module.average.module), weights(module.generator))
    assert module.decoder is module.average.module


def test_warmup_weights_the_kl_term(toy_split_file, tmp_path):
    """In step 1 of 4 the KL term counts a quarter of β."""
    module = vae(warmup_steps=4, beta=2.0)
    terms, losses = [], []
    original_terms, original_step = module._terms, module.training_step
    module._terms = lambda batch: terms.append(original_terms(batch)) or terms[-1]
    module.training_step = lambda *args: losses.append(original_step(*args)) or losses[-1]
    fit(module, images_of(toy_split_file, steps_per_epoch=6), tmp_path, epochs=1, limit_val_batches=0)
    for step, ((log_likelihood, kl), loss) in enumerate(zip(terms, losses, strict=True)):
        expected = 2 * min(1, (step + 1) / 4) * kl.sum(1).mean() - log_likelihood.mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_second_stage_covers_the_codes_of_the_images(toy_split_file, tmp_path):
    module = vae(second_stage=3)
    data = images_of(toy_split_file)
    fit(module, data, tmp_path, epochs=5)
    module.eval()
    with torch.no_grad():
        mean, log_var = module.encoder(data.rendered(data.train_rows))
    codes = mean + (log_var / 2).exp() * torch.randn(mean.shape, generator=make_rng(0))
    drawn = module.prior().sample(4000, rng=make_rng(1))
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(drawn.std(0), codes.std(0), atol=0.3, rtol=0.2)


def test_partners_are_other_training_images_of_the_same_class_and_turn_together(toy_split_file):
    data = images_of(toy_split_file, rotations=True, batch_size=64)
    data.setup("fit")
    table, train = data.table, set(data.train_rows.tolist())
    turns = set()
    for step in range(30):
        plan = data.plan(step)
        assert torch.equal(table.class_ids[plan.rows], table.class_ids[plan.partners])
        assert (plan.rows != plan.partners).all()
        assert set(plan.partners.tolist()) <= train
        turns |= set(plan.turns.tolist())
    assert turns == {0, 1, 2, 3}
    batch = data.transfer_batch_to_device(plan, torch.device("cpu"), 0)
    for i in range(8):
        for rows, images in ((plan.rows, batch.images), (plan.partners, batch.partners)):
            upright = table.images[rows[i]].float() / 255
            torch.testing.assert_close(images[i], torch.rot90(upright, int(plan.turns[i]), (-2, -1)))
    assert data.split.train[batch.labels[0]] == table.class_names[table.class_ids[plan.rows[0]]]
    for plan in data.val_dataloader():
        assert not set(plan.rows.tolist()) & train
        assert set(plan.partners.tolist()) <= train
        assert torch.equal(table.class_ids[plan.rows], table.class_ids[plan.partners])


def test_unseen_images_are_of_validation_classes_never_of_test_classes(toy_split_file):
    data = images_of(toy_split_file)
    data.setup("fit")
    names = lambda rows: {data.table.class_names[i] for i in data.table.class_ids[rows]}  # noqa: E731
    assert names(data.unseen_rows) == set(data.split.val)
    assert names(data.train_rows) == names(data.held_out_rows) == set(data.split.train)
    assert not set(data.train_rows.tolist()) & set(data.held_out_rows.tolist())


class Constant(LatentDecoder):
    """A collapsed generator."""

    latent_dim, image_shape, init_args = 4, SHAPE, {}

    def __init__(self):
        super().__init__()
        self.image = nn.Parameter(torch.zeros(SHAPE))

    def forward(self, z):
        return self.image.expand(len(z), *SHAPE)

    def decode(self, z):
        return torch.sigmoid(self(z))


def test_a_collapsed_generator_is_reported_loudly_and_a_sound_one_is_not(toy_split_file, tmp_path, capsys):
    torch.manual_seed(0)
    module = VAEModule(ConvEncoder(4, SHAPE), Constant(), importance_samples=2)
    fit(module, images_of(toy_split_file), tmp_path, epochs=1)
    assert "WARNING: COLLAPSED: at the end of training two samples differ by 0.00" in capsys.readouterr().err
    assert module.report()["collapsed"] == 1

    class Real(GenerativeModule):
        """Draws real images: as good as can be."""

        networks = prior = check = logged = trained_parameters = None

        def __init__(self, data):
            super().__init__()
            self._trainer, self.images = type("T", (), {"datamodule": data})(), data

        @property
        def data(self):
            return self.images

        def sample(self, n, rng):
            return self.images.rendered(
                self.images.train_rows[torch.randperm(len(self.images.train_rows), generator=rng)[:n]]
            )

        def sample_classes(self, n_classes, n_images, rng):
            rows = torch.stack([of[:n_images] for of in self.images.class_rows[:n_classes]])
            return self.images.rendered(rows.flatten()).unflatten(0, rows.shape)

    data = images_of(toy_split_file, feature_steps=30)
    data.setup("fit")
    report = Real(data).report()
    assert report["collapsed"] == 0
    assert report["diversity"] == pytest.approx(1, abs=0.1)
    assert report["spread"] == pytest.approx(1, abs=0.2)
    assert report["recognisability"] > 0.8
    assert report["precision"] > 0.8
    assert report["memorisation"] < 0.1, "training images are their own nearest neighbours"


@pytest.mark.parametrize(
    "name", ["gan with all", "vae second stage", "vae flow", "deformation", "flow", "latent flow", "diffusion class"]
)
def test_resumed_training_equals_uninterrupted_training(name, toy_split_file, tmp_path):
    whole = MODELS[name]()
    fit(whole, images_of(toy_split_file, steps_per_epoch=5), tmp_path / "whole", epochs=4)
    first, part = MODELS[name](), tmp_path / "part"
    stop = trainer_for(
        part,
        max_epochs=1,  # 5 batches: between two steps of the GAN's generator
        enable_checkpointing=True,
        callbacks=[ModelCheckpoint(dirpath=part, filename="a", save_last=True)],
    )
    stop.fit(first, images_of(toy_split_file, steps_per_epoch=5))
    second = MODELS[name]()
    trainer = trainer_for(tmp_path, max_epochs=4)
    trainer.fit(second, images_of(toy_split_file, steps_per_epoch=5), ckpt_path=part / "last.ckpt", weights_only=True)
    assert torch.equal(weights(second), weights(whole))


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["gan with all"], ["gan with all", "vae", "vae flow", "deformation", "flow", "latent flow", "diffusion class"]
    ),
)
def test_two_processes_train_and_agree(name, toy_split_file, tmp_path):
    module = MODELS[name]()
    module.on_train_end = lambda: torch.save(weights(module), tmp_path / f"rank{module.global_rank}.pt")
    options = {"devices": 2, "strategy": "ddp_fork"}
    if name.startswith("gan"):
        options["strategy"] = "ddp_fork_find_unused_parameters_true"
    trainer = fit(module, images_of(toy_split_file), tmp_path, epochs=2, **options)
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    assert torch.equal(*ranks), "a gradient was not shared"
    assert not torch.equal(ranks[0], weights(MODELS[name]()))
    assert load_generator(tmp_path / "a.ckpt").image_shape == SHAPE


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", slow_but(["gan with all", "vae second stage", "flow", "diffusion class"], MODELS))
def test_processes_take_the_steps_of_one(name, n, toy_split_file, tmp_path):
    """Each image has the noise that it has with one process; free bits are of the mean over all images of a batch."""
    found = []
    for devices in (1, n):
        module = MODELS[name]()
        for normalised in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
            normalised.eval()  # batch norm is over the images of a process; running statistics are not
            normalised.train = lambda mode, of=normalised: of
        module.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.001)  # Adam steps on rounding errors
        options = {"devices": n, "strategy": "ddp_fork_find_unused_parameters_true"} if devices > 1 else {}
        trainer = fit(module, images_of(toy_split_file), tmp_path, steps=20, **options)
        found.append((weights(module), trainer.callback_metrics))
    assert (found[0][0] - weights(MODELS[name]())).abs().max() > 1e-4
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-6, rtol=1e-5)
    for metric, tolerance in (("val/elbo", 1e-5), ("val/diversity", 0.03)):  # of samples that are nearly alike
        if metric in found[0][1]:
            assert float(found[1][1][metric]) == pytest.approx(float(found[0][1][metric]), rel=tolerance), metric


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["gan with all", "vae vamp", "vae flow", "flow", "diffusion class"],
        [name for name in MODELS if name not in ("gan", "vae", "vae class", "vae logistic")],
    ),
)
def test_mixed_precision_stays_near_full_precision(name, toy_split_file, tmp_path):
    results = []
    for precision in ("32-true", "bf16-mixed"):
        module = MODELS[name]()
        trainer = fit(module, images_of(toy_split_file), tmp_path / precision, epochs=2, precision=precision)
        assert all(value.isfinite() for value in trainer.callback_metrics.values())
        assert weights(module).dtype == torch.float32
        results.append(weights(module))
    assert (results[1] - results[0]).norm() < 0.05 * results[0].norm()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gan(r1=-1.0), r"model\.r1 must be at least 0, found -1"),
        (lambda: gan(discriminator_steps=0), r"model\.discriminator_steps must be at least 1"),
        (lambda: gan(ema_decay=1.0), r"ema_decay must be in \[0, 1\)"),
        (lambda: GANModule(ConvGenerator(4, SHAPE, (4,), class_dim=2), ConvDiscriminator(SHAPE)), "needs both"),
        (
            lambda: GANModule(ConvGenerator(4, SHAPE), ConvDiscriminator(SHAPE), encoder=ConvEncoder(5, SHAPE)),
            "latent_dim 5",
        ),
        (lambda: ConvGenerator(4, SHAPE, class_dim=4), r"class_dim must be in \[0, latent_dim\)"),
        (lambda: diffusion(ema_decay=1.0), r"model\.ema_decay must be in \[0, 1\)"),
        (lambda: vae(beta=-1.0), r"model\.beta must be at least 0"),
        (lambda: vae(importance_samples=0), r"importance_samples must be at least 1"),
        (lambda: VAEModule(ConvEncoder(3, SHAPE), ConvDecoder(4, SHAPE)), "they must be equal"),
        (lambda: RedrawModule(PairEncoder(3, SHAPE), PixelRedrawer(4, SHAPE)), "they must be equal"),
        (lambda: latent_flow(second_stage=3), "codes are drawn by model.ode"),
        (lambda: latent_flow(encoder=ConvEncoder(5, SHAPE), decoder=ConvDecoder(5, SHAPE)), "for codes of 4 entries"),
        (lambda: ODEModule(FlowMatching(UNet(SHAPE)), ema_decay=1.0), r"ema_decay must be in \[0, 1\)"),
        (lambda: DiffAugment(translation=1.5), r"must be in \[0, 1\)"),
        (lambda: DeformationRedrawer(4, (1, 15, 16)), "multiples of 4"),
        (lambda: VampPrior(0), "n_components=0"),
        (lambda: vae(latent_prior=FlowPrior(5)), r"model\.latent_prior has latent_dim 5, but model\.decoder has 4"),
        (lambda: vae(latent_prior=flow_prior(), second_stage=3), r"model\.second_stage is 3, but codes of a FlowPrior"),
        (
            lambda: RedrawModule(PairEncoder(4, SHAPE), PixelRedrawer(4, SHAPE), latent_prior=FlowPrior(5)),
            r"model\.redrawer has 4",
        ),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GANModule(ConvGenerator(4, (1, 20, 20)), ConvDiscriminator(SHAPE)),
            r"model\.generator .*\[1, 20, 20\]",
        ),
        (lambda: gan(conditional=True), "max_classes is 12, but the data have 24"),
        (lambda: vae(latent_prior=ClassPrior(4, 5)), "room for 5 classes"),
        (lambda: diffusion(class_dim=2), r"model\.ode\.network\.max_classes is 12, but the data have 24"),
        (lambda: ODEModule(Diffusion(UNet((1, 8, 8), (4,)))), r"model\.ode\.network has image_shape \[1, 8, 8\]"),
        (lambda: vae(latent_prior=VampPrior(5, (1, 8, 8))), r"model\.latent_prior has image_shape \[1, 8, 8\]"),
        (lambda: vae(second_stage=10_000), "10000 components, but there are"),
        (lambda: flow(class_dim=3), "max_classes is 12, but the data have 24"),
        (lambda: ODEModule(FlowMatching(UNet(SHAPE, given=True))), "take ODERedrawModule"),
        (lambda: ODERedrawModule(FlowMatching(UNet(SHAPE))), "no image is given to it"),
        (lambda: RedrawModule(PairEncoder(4, (1, 8, 8)), PixelRedrawer(4, SHAPE)), r"model\.encoder .*\[1, 8, 8\]"),
    ],
)
def test_models_that_do_not_fit_the_data_are_refused(make, message, tmp_path):
    table = make_table(n_classes=28)
    names = table.class_names
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"dataset": "toy", "train": names[:24], "val": names[24:26], "test": names[26:]}))

    class Wide(ToySource):
        def load(self):
            return table

    data = ImageDataModule(Wide(), str(path), batch_size=16)
    data.setup("fit")
    with pytest.raises(UserError, match=message):
        make().check(data, "fit")
