"""A run's model card: what was trained, on which data, how well, and how to make it again."""

from leyden.config.errors import UserError
from leyden.config.terminal import one_line
from leyden.report.held_out import count_line
from leyden.run.directory import Run
from leyden.run.identity import typed_overrides

# What no record can know.
TO_WRITE = (
    "*To be written by you: what it is for, what it is not for, whose data these are, and under which license.*"
)


def model_card(run: Run) -> str:
    """Return a model card in Markdown, with the header that Hugging Face's hub reads.

    It has no paths, host or user names.

    Raises:
        UserError: The run has not ended.
    """
    if (result := run.result) is None or not result.is_complete:
        raise UserError(f"{run.directory}: has not ended, and so has no results for a model card")
    config, start = run.config, run.starts[-1]
    parts = {key: _class_name(config.get(key)) for key in ("model", "task", "optimizer")}
    typed = [override for override in run.overrides if typed_overrides([override])]
    git, versions = (
        start["git"],
        {"leyden": start["library"]["version"], "python": start["python"], **start["versions"]},
    )
    number = "" if result.best_epoch is None else f" {result.best_epoch} of {result.epochs}"
    by = f", the best by {result.objectives[0].metric}" if result.objectives else ""
    stages = {name: stage for stage, names in result.stages.items() for name in names}
    return "\n".join(
        [
            "---\nlibrary_name: leyden\ntags:\n- pytorch\n- lightning\n---",
            f"# {_code(config['name'])}\n",
            TO_WRITE,
            "\n## Model\n",
            *(f"- {key}: {_code(name)}" for key, name in parts.items() if name),
            f"- parameters: {result.metrics['num_parameters']:,}" if "num_parameters" in result.metrics else "",
            f"\n## Results\n\nThe weights are those of epoch{number}{by}.\n",
            "| metric | measured in | value |\n|---|---|---|",
            *(
                f"| {_code(name)} | {stages[name]} | {value:.4g} |"
                for name, value in result.metrics.items()
                if name in stages
            ),
            f"\n{one_line(line)}" if result.is_tested and (line := count_line(run)) else "",
            "\n## Training\n",
            f"- overrides: {' '.join(map(_code, typed)) or 'none'}; all settings are in config.yaml",
            f"- commit: {_code(git['sha'])}" + ", with changes that were not committed" * bool(git["dirty"]),
            f"- versions: {', '.join(f'{name} {_code(version)}' for name, version in versions.items())}",
            "\n## Data\n\nSHA-256 of the files:\n",
            *(f"- {_code(name)}: {_code(digest)}" for name, digest in start["data"].items()),
            "",
        ]
    )


def _class_name(node: object) -> str:
    target = node.get("_target_") if isinstance(node, dict) else None
    return str(target).rpartition(".")[2] if target else ""


def _code(text: object) -> str:
    """Return a recorded text, which may be a stranger's, as code in Markdown."""
    return f"`{one_line(text).replace('`', '').replace('|', '/')}`"
