"""Generative models: losses against hand-computed values and closed forms, checkpoints that run no code."""

import math
import pickle
from pathlib import Path

import pytest
import torch
from conftest import make_table, toy_split
from torch import nn

from genmeta.data.splits import Split
from genmeta.errors import UserError
from genmeta.models.backbones import Conv4, keeps_running_statistics, uses_batch_statistics
from genmeta.models.checkpoint import KEY, describe_decoder, load_decoder
from genmeta.models.gan import (
    FullyConnectedDiscriminator,
    FullyConnectedGenerator,
    Minimax,
    NonSaturating,
    energy_distance,
)
from genmeta.models.vae import ConvDecoder, ConvEncoder, bernoulli_log_likelihood, kl_to_prior, sample_posterior
from genmeta.rng import make_rng

SPLIT = toy_split(make_table())


def test_gan_losses_at_hand_computed_values():
    zero = torch.zeros(3, dtype=torch.float64)
    ln2 = math.log(2)
    assert Minimax().discriminator_loss(zero, zero).item() == pytest.approx(2 * ln2)
    assert Minimax().generator_loss(zero).item() == pytest.approx(-ln2)
    assert NonSaturating().generator_loss(zero).item() == pytest.approx(ln2)
    # logits ln 3 and -ln 3 are probabilities 3/4 and 1/4
    real, fake = torch.tensor([math.log(3.0)]), torch.tensor([-math.log(3.0)])
    assert NonSaturating().discriminator_loss(real, fake).item() == pytest.approx(-2 * math.log(0.75), rel=1e-6)
    assert NonSaturating().generator_loss(fake).item() == pytest.approx(math.log(4), rel=1e-6)
    assert Minimax().generator_loss(fake).item() == pytest.approx(math.log(0.75), rel=1e-6)


def test_gan_losses_equal_the_textbook_formulas_and_survive_large_logits():
    real, fake = torch.randn(2, 50, dtype=torch.float64, generator=make_rng(0)).requires_grad_()
    d_real, d_fake = torch.sigmoid(real), torch.sigmoid(fake)
    value = d_real.log().mean() + (1 - d_fake).log().mean()
    torch.testing.assert_close(Minimax().discriminator_loss(real, fake), -value)
    torch.testing.assert_close(Minimax().generator_loss(fake), (1 - d_fake).log().mean())
    torch.testing.assert_close(NonSaturating().generator_loss(fake), -d_fake.log().mean())
    huge = torch.tensor([200.0, -200.0])
    for loss in (Minimax().discriminator_loss(huge, huge), Minimax().generator_loss(huge)):
        assert loss.isfinite()


def test_minimax_saturates_where_the_other_does_not():
    fake = torch.tensor([-20.0], requires_grad=True)
    (minimax,) = torch.autograd.grad(Minimax().generator_loss(fake), fake)
    (other,) = torch.autograd.grad(NonSaturating().generator_loss(fake), fake)
    assert abs(minimax.item()) < 1e-8
    assert other.item() == pytest.approx(-1, abs=1e-6)


def test_classic_gan_has_the_classic_layers():
    generator, discriminator = FullyConnectedGenerator(), FullyConnectedDiscriminator()
    sizes = [(m.in_features, m.out_features) for m in generator.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(100, 128), (128, 256), (256, 512), (512, 1024), (1024, 784)]
    assert sum(isinstance(m, nn.BatchNorm1d) for m in generator.modules()) == 3
    sizes = [(m.in_features, m.out_features) for m in discriminator.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(784, 512), (512, 256), (256, 1)]
    assert all(m.negative_slope == 0.2 for m in generator.modules() if isinstance(m, nn.LeakyReLU))
    images = generator(torch.randn(6, 100))
    assert images.shape == (6, 1, 28, 28)
    assert -1 <= images.min() < 0 < images.max() <= 1
    assert discriminator(images).shape == (6,)
    generator.eval()
    z = torch.randn(6, 100)
    torch.testing.assert_close(generator.decode(z), (generator(z) + 1) / 2)


def test_energy_distance_by_hand_and_between_equal_distributions():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [3.0]])
    # E|x-y| = 2.5, E|x-x'| = 1, E|y-y'| = 0
    assert energy_distance(x, y).item() == pytest.approx(4.0)
    a, b = torch.randn(2, 800, 4, generator=make_rng(0))
    assert abs(energy_distance(a, b).item()) < 0.01
    assert energy_distance(a, b + 0.5).item() > 0.05
    assert energy_distance(a, 0.2 * b).item() > 0.1, "collapse is seen"


def test_kl_equals_torch_distributions_and_a_hand_value():
    mean, log_var = torch.randn(2, 7, 5, dtype=torch.float64, generator=make_rng(0))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (log_var / 2).exp()), normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_to_prior(mean, log_var), expected)
    assert kl_to_prior(torch.ones(1, 4), torch.zeros(1, 4)).item() == pytest.approx(2.0), "summed, not averaged"


def test_likelihood_is_in_nats_per_image():
    x = torch.bernoulli(torch.full((3, 1, 4, 4), 0.5), generator=make_rng(0))
    logits = torch.randn(3, 1, 4, 4, generator=make_rng(1))
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(bernoulli_log_likelihood(logits, x), expected)
    assert bernoulli_log_likelihood(torch.zeros(1, 1, 28, 28), torch.ones(1, 1, 28, 28)).item() == pytest.approx(
        -784 * math.log(2), rel=1e-6
    )


def test_elbo_gradients_in_float64():
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64, generator=make_rng(0))
    decode = nn.Linear(3, 16).double()

    def elbo(mean, log_var):
        z = sample_posterior(mean, log_var, make_rng(5))
        return bernoulli_log_likelihood(decode(z).view(2, 1, 4, 4), x) - kl_to_prior(mean, log_var)

    mean, log_var = torch.randn(2, 2, 3, dtype=torch.float64, generator=make_rng(1))
    assert torch.autograd.gradcheck(elbo, (mean.requires_grad_(), log_var.requires_grad_()))


def test_posterior_samples_have_its_mean_and_deviation():
    mean, log_var = torch.tensor([[2.0]]).expand(20000, 1), torch.tensor([[math.log(0.25)]]).expand(20000, 1)
    z = sample_posterior(mean, log_var, make_rng(0))
    assert z.mean().item() == pytest.approx(2, abs=0.02)
    assert z.std().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 40)])
def test_vae_networks_fit_together(shape):
    encoder, decoder = ConvEncoder(6, shape), ConvDecoder(6, shape)
    mean, log_var = encoder(torch.rand(2, *shape))
    assert mean.shape == log_var.shape == (2, 6)
    images = decoder.decode(mean)
    assert images.shape == (2, *shape)
    assert 0 < images.min() < images.max() < 1
    with pytest.raises(UserError, match="multiples of 4"):
        ConvDecoder(6, (1, 30, 28))


def test_conv4_shapes_and_statistics():
    assert Conv4()(torch.rand(2, 1, 28, 28)).shape == (2, 64)
    assert Conv4(3, 32, 84)(torch.rand(2, 3, 84, 84)).shape == (2, 32 * 25)
    assert keeps_running_statistics(Conv4())
    assert not uses_batch_statistics(Conv4())
    assert uses_batch_statistics(Conv4(running_stats=False))
    with pytest.raises(UserError, match="at least 16"):
        Conv4(image_size=15)


def save(path: Path, decoder=None, **changes) -> Path:
    decoder = decoder or ConvDecoder(6, (1, 16, 16))
    state = {f"decoder.{k}": v for k, v in decoder.state_dict().items()}
    entry = describe_decoder(decoder, "decoder.", SPLIT) | changes
    torch.save({"state_dict": state | {"encoder.x": torch.zeros(1)}, KEY: entry}, path)
    return path


@pytest.mark.parametrize(
    "make", [lambda: ConvDecoder(6, (1, 16, 16)), lambda: FullyConnectedGenerator(5, (1, 8, 8), (7, 9))]
)
def test_a_decoder_comes_back_frozen_and_equal(tmp_path, make):
    decoder = make().eval()
    loaded = load_decoder(save(tmp_path / "a.ckpt", decoder))
    z = torch.randn(4, decoder.latent_dim)
    torch.testing.assert_close(loaded.decoder.decode(z), decoder.decode(z))
    assert not loaded.decoder.training
    assert not any(p.requires_grad for p in loaded.decoder.parameters())
    assert (loaded.split_name, loaded.split_hash) == ("toy", SPLIT.hash)
    loaded.check_split(SPLIT)
    loaded.check_image_shape(decoder.image_shape)


def test_a_generator_of_another_split_or_size_is_refused_with_both_named(tmp_path):
    loaded = load_decoder(save(tmp_path / "a.ckpt"))
    other = Split("other", "toy", SPLIT.train[1:], SPLIT.val, SPLIT.test)
    with pytest.raises(UserError, match=r"trained on split 'toy' .* uses split 'other'"):
        loaded.check_split(other)
    with pytest.raises(UserError, match=r"\[1, 16, 16\], but the data have \[1, 28, 28\]"):
        loaded.check_image_shape((1, 28, 28))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_damaged_and_malicious_checkpoints_are_refused(tmp_path):
    good = save(tmp_path / "good.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(good.read_bytes()[:5000])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"state_dict": {}, "x": Malicious(tmp_path / "ran")}, tmp_path / "evil.ckpt")
    (tmp_path / "evil_pickle.ckpt").write_bytes(pickle.dumps(Malicious(tmp_path / "ran")))
    for name in ("cut", "empty", "text", "evil", "evil_pickle"):
        with pytest.raises(UserError, match=rf"{name}\.ckpt: cannot be read") as raised:
            load_decoder(tmp_path / f"{name}.ckpt")
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists(), "code in the file was run"
    with pytest.raises(UserError, match="no such file"):
        load_decoder(tmp_path / "none.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "learner.ckpt")
    with pytest.raises(UserError, match="is not from a generator"):
        load_decoder(tmp_path / "learner.ckpt")


@pytest.mark.parametrize("class_path", ["os.system", "torch.nn.Linear", "no.such.Thing", "pathlib.Path"])
def test_a_checkpoint_can_only_name_decoders(tmp_path, class_path):
    path = save(tmp_path / "a.ckpt", decoder_class=class_path)
    with pytest.raises(UserError, match=r"is not a LatentDecoder|is not installed"):
        load_decoder(path)
