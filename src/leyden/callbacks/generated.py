"""What a network that has learned a language writes."""

import lightning as L
import torch

from leyden.callbacks.showing import Showing
from leyden.callbacks.writer import logged_steps, tensorboard_writer
from leyden.data.text import text_of
from leyden.tasks.language import generate
from leyden.tasks.task import Task


class Generated(Showing):
    """Writes a text that the network makes after each epoch, for TensorBoard's texts; always with the same chances.

    It goes on from the first token of the vocabulary that is a line's end, or else from the first token of all.

    Args:
        num_tokens: Length of the text.
        temperature: Of the probabilities; near 0 the likeliest token follows.
        vocabulary: What each token stands for.
        input_shape: Of one sample, (T,): tokens that the network takes at once.
    """

    def __init__(
        self, *, num_tokens: int, temperature: float, vocabulary: tuple[str, ...], input_shape: tuple[int, ...]
    ) -> None:
        if type(num_tokens) is not int or num_tokens < 1:
            raise ValueError(f"num_tokens={num_tokens}: must be a positive whole number")
        if not isinstance(temperature, int | float) or not temperature > 0:
            raise ValueError(f"temperature={temperature}: must be a positive number")
        self.num_tokens, self.temperature = num_tokens, temperature
        self.vocabulary, self.max_context = vocabulary, input_shape[0]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write that of the epoch."""
        writer = tensorboard_writer(trainer)
        if writer is None or not isinstance(pl_module, Task) or pl_module.kind != "text":
            return
        first = self.vocabulary.index("\n") if "\n" in self.vocabulary else 0
        network = pl_module.network
        was_training = network.training
        network.eval()
        try:
            tokens_T = generate(
                network,
                torch.tensor([first], device=pl_module.device),
                num_tokens=self.num_tokens,
                max_context=self.max_context,
                temperature=self.temperature,
                seed=0,
            )
        finally:
            network.train(was_training)
        text = text_of(tokens_T, self.vocabulary)
        # Markdown shows what is indented as it is.
        writer.add_text(
            "generated", "\n".join(f"    {line}" for line in text.splitlines()), logged_steps(trainer) - 1
        )
