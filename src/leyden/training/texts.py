"""What a trained network writes."""

from pathlib import Path

from leyden.config.mistakes import UserError
from leyden.data.text import text_of, tokens_of
from leyden.run.directory import Run
from leyden.tasks.language import generate
from leyden.training.trained import trained_task


def continue_text(
    run: Run,
    checkpoint: Path,
    prompt: str,
    *,
    num_tokens: int,
    temperature: float,
    seed: int,
    accelerator: str | None,
) -> str:
    """A text that goes on from `prompt`, as `generate` says.

    Raises:
        UserError: The run has learned no language, or the prompt can't be written in its vocabulary.
    """
    task, facts = trained_task(run, checkpoint, "text", accelerator=accelerator)
    vocabulary, shape = facts.vocabulary, facts.input_shape
    if vocabulary is None or shape is None:
        raise UserError(f"{run.directory}: its data tell no vocabulary, or not how much the network takes at once")
    try:
        tokens_T = tokens_of(prompt, vocabulary)
        if not len(tokens_T) or num_tokens < 1 or not temperature > 0:
            raise ValueError("prompt, num_tokens and temperature: must be a text, and positive numbers")
    except ValueError as error:
        raise UserError(f"prompt={prompt}: {error}") from error
    chosen_T = generate(
        task.network,
        tokens_T.to(task.device),
        num_tokens=num_tokens,
        max_context=shape[0],
        temperature=temperature,
        seed=seed,
    )
    return text_of(chosen_T.cpu(), vocabulary)
