"""Memory-based learner with an external memory: the memory-augmented neural network."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError, require_positive
from genmeta.learners.draws import Draws, support_order
from genmeta.learners.embedding import check_way, embed, feature_size
from genmeta.learners.learner import Learner, check_image_shape


class Memory(NamedTuple):
    """An external memory and the state of its addressing.

    Attributes:
        cells: `[b, slot, size]`.
        usage: `[b, slot]`, w^u.
        read_weights: `[b, head, slot]`, w^r of the last step.
    """

    cells: Tensor
    usage: Tensor
    read_weights: Tensor


def least_used(usage: Tensor, n: int) -> Tensor:
    """Return w^lu, 1 for the `n` least used slots and else 0, in the shape of `usage` (eq. 6).

    Of equally used slots it takes the first ones. The equation would take all, and in an empty memory every slot.
    """
    first = usage.argsort(dim=1, stable=True)[:, :n]
    return torch.zeros_like(usage).scatter(1, first, 1.0)


def access(memory: Memory, keys: Tensor, gates: Tensor, decay: float, sharpness: float = 1.0) -> tuple[Memory, Tensor]:
    """Write the keys, then read with them: least-recently-used access (eq. 2 to 8).

    Args:
        memory: of the last step.
        keys: `[b, head, size]`, k; each head writes its key and reads what is like it.
        gates: `[b, head]`, σ(α) in [0, 1]: 1 writes where the head read last, 0 to the least used slots.
        decay: γ of the usage.
        sharpness: factor on the cosines before the softmax.

    Returns:
        The memory after the step, and what was read, `[b, head, size]`.
    """
    unused = least_used(memory.usage, keys.shape[1])
    write_weights = gates[:, :, None] * memory.read_weights + (1 - gates[:, :, None]) * unused[:, None]
    cells = memory.cells * (1 - unused[:, :, None]) + write_weights.mT @ keys
    similarity = F.normalize(keys, dim=2) @ F.normalize(cells, dim=2).mT
    read_weights = (sharpness * similarity).softmax(2)
    usage = decay * memory.usage + read_weights.sum(1) + write_weights.sum(1)
    return Memory(cells, usage, read_weights), read_weights @ cells


class State(NamedTuple):
    """Of the whole network: the memory, what was last read `[b, head, size]`, the LSTM's state `[b, hidden]` twice."""

    memory: Memory
    read: Tensor
    hidden: Tensor
    cell: Tensor


def repeated(state: State, n: int) -> State:
    """Return the state with each element of its batch `n` times in a row."""
    memory = Memory(*(value.repeat_interleave(n, 0) for value in state.memory))
    return State(memory, *(value.repeat_interleave(n, 0) for value in state[1:]))


class MANN(Learner):
    """Memory-augmented neural network: an LSTM that writes to and reads from an external memory.

    Santoro, Bartunov, Botvinick, Wierstra and Lillicrap, "Meta-Learning with Memory-Augmented Neural Networks",
    ICML 2016, sec. 3. Each image comes with the label of the image before it; the label of the last support image comes
    with the query. Each query is classified on its own, from the state after the support set, and only its answer is
    trained. The order of the support set matters (`draws.support_order`). Labels are one-hot inputs, so permuted labels
    permute the logits only as far as the network has learned it. `support_weight` is ignored.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`, with `n_features = d` and running statistics.
        n_way: classes of every episode in training and test.
        hidden: units of the LSTM.
        n_slots, slot_size: size of the memory.
        n_heads: heads, each of which writes and reads; fewer than slots.
        decay: γ of the usage, in [0, 1].
        sharpness: factor on the cosines before the softmax, as the key strength of neural Turing machines (Graves et
            al., 2014, eq. 5). 1 is the paper's; there, no slot weighs more than e² times another, and learning is slow.

    Raises:
        UserError: a size is out of range, or the backbone uses batch statistics.
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_way: int = 5,
        hidden: int = 200,
        n_slots: int = 128,
        slot_size: int = 40,
        n_heads: int = 4,
        decay: float = 0.95,
        sharpness: float = 1.0,
    ) -> None:
        super().__init__()
        n_features = feature_size("MANN", backbone)
        require_positive("MANN", n_way=n_way, hidden=hidden, n_slots=n_slots, slot_size=slot_size, n_heads=n_heads)
        if n_heads >= n_slots or not 0 <= decay <= 1 or sharpness <= 0:
            raise UserError(
                f"MANN needs n_heads < n_slots, 0 <= decay <= 1, sharpness > 0; found n_heads={n_heads}, "
                f"n_slots={n_slots}, decay={decay}, sharpness={sharpness}"
            )
        self.backbone, self.n_way, self.draws = backbone, n_way, Draws()
        self.decay, self.sharpness = decay, sharpness
        self.n_slots, self.slot_size, self.n_heads = n_slots, slot_size, n_heads
        self.lstm = nn.LSTMCell(n_features + n_way + n_heads * slot_size, hidden)
        self.keys = nn.Linear(hidden, n_heads * slot_size)
        self.gates = nn.Linear(hidden, n_heads)
        self.answer = nn.Linear(hidden + n_heads * slot_size, n_way)

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone, image_shape)
        check_way("MANN", self.n_way, shape)

    def start(self, n: int, like: Tensor) -> State:
        """Return the state before a sequence, for `n` sequences: an empty memory."""
        cells = like.new_zeros(n, self.n_slots, self.slot_size)
        memory = Memory(cells, like.new_zeros(n, self.n_slots), like.new_zeros(n, self.n_heads, self.n_slots))
        hidden = like.new_zeros(n, self.lstm.hidden_size)
        return State(memory, like.new_zeros(n, self.n_heads, self.slot_size), hidden, hidden)

    def step(self, state: State, x: Tensor) -> tuple[State, Tensor]:
        """Return the next state, and logits `[b, way]`, for features beside the last label, `[b, d + way]`."""
        hidden, cell = self.lstm(torch.cat([x, state.read.flatten(1)], 1), (state.hidden, state.cell))
        keys = self.keys(hidden).tanh().unflatten(1, (self.n_heads, self.slot_size))
        memory, read = access(state.memory, keys, self.gates(hidden).sigmoid(), self.decay, self.sharpness)
        return State(memory, read, hidden, cell), self.answer(torch.cat([hidden, read.flatten(1)], 1))

    def forward(self, batch: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, batch)
        order = support_order(self.draws, batch, self.training)
        support = support.gather(1, order[:, :, None].expand(-1, -1, support.shape[2]))
        labels = F.one_hot(batch.support_y.gather(1, order), self.n_way).to(support.dtype)
        last = torch.cat([torch.zeros_like(labels[:, :1]), labels], 1)  # [task, n + 1, way]: of the step before
        state = self.start(len(support), support)
        for t in range(support.shape[1]):
            state, _ = self.step(state, torch.cat([support[:, t], last[:, t]], 1))
        n_query = query.shape[1]
        x = torch.cat([query, last[:, -1:].expand(-1, n_query, -1)], 2).flatten(0, 1)
        return self.step(repeated(state, n_query), x)[1].unflatten(0, query.shape[:2])
