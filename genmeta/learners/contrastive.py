"""An embedding that is trained without labels: two views of an image belong together, those of other images do not.

The loss is NT-Xent of Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual
Representations" (SimCLR), ICML 2020, eq. 1: InfoNCE (van den Oord, Li and Vinyals, 2018) over all views of a batch.
Crops, SimCLR's strongest view, are the wrong invariance for characters, of which a part can be another character;
what two drawings of one character differ in is a smooth deformation.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch
from genmeta.errors import UserError
from genmeta.learners.embedding import embed
from genmeta.learners.metric import ProtoNet


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the loss of n images' two views, a scalar: each view has to find the other one among 2n - 1.

    Args:
        first, second: features of the views, `[n, d]`, of any length; n is at least 2.
        temperature: that cosine similarities are divided by, above 0.
    """
    views = torch.cat([first, second])
    views = F.normalize(views.to(torch.promote_types(views.dtype, torch.float32)), dim=1)  # bfloat16 is too coarse
    similarity = (views @ views.T / temperature).fill_diagonal_(-torch.inf)
    n = len(first)
    other = (torch.arange(2 * n, device=views.device) + n) % (2 * n)
    return F.cross_entropy(similarity, other)


class Contrastive(ProtoNet):
    """Logits are cosine similarities to the class means of features, divided by the temperature.

    In training a class is one image, and its support and its query image are the two views: tasks are
    `genmeta.tasks.redrawn.SingleImageTasks` in a `RedrawnTasks` that draws all images again. With tasks of real or of
    pseudo-classes the two views are two images of a class.

    Args:
        backbone: as ProtoNet's.
        temperature: of the similarities.

    Raises:
        UserError: the backbone uses batch statistics, or the temperature is not above 0.
    """

    def __init__(self, backbone: nn.Module, temperature: float = 0.1) -> None:
        super().__init__(backbone)
        if temperature <= 0:
            raise UserError(f"Contrastive needs a temperature > 0, found {temperature}")
        self.temperature = temperature

    def compare(self, query: Tensor, centres: Tensor) -> Tensor:
        return F.normalize(query, dim=2) @ F.normalize(centres, dim=2).mT / self.temperature

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        support, query = embed(self.backbone, batch)
        if support.shape[1] != batch.n_way or query.shape[1] != batch.n_way:
            raise UserError(
                f"Contrastive compares two views of each class: data.train needs n_shot 1 and n_query 1, found "
                f"{support.shape[1] // batch.n_way} and {query.shape[1] // batch.n_way}"
            )
        # views in the order of the labels, so that those of one class stand at the same place
        first = support.gather(1, batch.support_y.argsort(1)[..., None].expand_as(support))
        second = query.gather(1, batch.query_y.argsort(1)[..., None].expand_as(query))
        losses = [nt_xent(a, b, self.temperature) for a, b in zip(first, second, strict=True)]
        with torch.no_grad():
            logits = self.compare(query, first)
        return torch.stack(losses).mean(), logits
