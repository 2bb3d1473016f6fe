"""Works of others, each trained in a block of `Exact`, killed twice, and compared: python bench/works.py [PACKAGE ...].

Install those of `WORKS` from their wheels beside Leyden; a work whose package is missing is left out. Each
is trained alone, undisturbed in the block, and twice killed there (`leyden resumetest`). Rows for the page on other
libraries are printed. With `--train PACKAGE (alone | DIR)`, the program is one of these trainings.
"""

import datetime
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from leyden import Exact
from leyden.exact import ExactError
from leyden.exact.resumption import Marks, Starts, compare_killed

NUM_KILLS, TIMEOUT_S = 2, 300
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
CASES: dict[str, Callable[[], object]] = {}


def work(train: Callable[[], object]) -> Callable[[], object]:
    """Take a function as the work of the package that has its name."""
    CASES[train.__name__] = train
    return train


def table(num: int = 256) -> Any:
    """Return a table of numbers and a word, as pandas has it, with a class for each row."""
    import pandas as pd

    drawn = np.random.default_rng(0)
    frame = pd.DataFrame(drawn.normal(size=(num, 4)).astype("float32"), columns=[*"abcd"])
    frame["word"] = drawn.choice(["x", "y", "z"], num)
    frame["target"] = (frame["a"] + frame["b"] > 0).astype(int)
    return frame


def series(num: int) -> Any:
    """Return a noisy wave."""
    noise = np.random.default_rng(0).normal(size=num) / 9
    return (np.sin(np.arange(num) / 9) + noise).astype("float32")


@work
def darts() -> None:
    """N-BEATS with dropout, by the library's `fit`."""
    from darts import TimeSeries
    from darts.models import NBEATSModel

    small = {"num_stacks": 2, "layer_widths": 16, "dropout": 0.1, "batch_size": 32}
    model = NBEATSModel(24, 12, n_epochs=4, random_state=0, pl_trainer_kwargs=QUIET, **small)
    model.fit(TimeSeries.from_values(series(300)))


@work
def gluonts() -> None:
    """DeepAR, on windows that are drawn without end."""
    import pandas as pd
    from gluonts.dataset.pandas import PandasDataset
    from gluonts.torch import DeepAREstimator

    frame = pd.DataFrame({"target": series(300)}, index=pd.period_range("2020", periods=300))
    options = {**QUIET, "max_epochs": 4}
    small = {"num_batches_per_epoch": 10, "batch_size": 16, "hidden_size": 8}
    DeepAREstimator("D", 8, trainer_kwargs=options, **small).train(PandasDataset(frame))


@work
def pytorch_tabular() -> None:
    """Embeddings of categories, with early stopping and the best weights at the end."""
    from pytorch_tabular import TabularModel
    from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig
    from pytorch_tabular.models import CategoryEmbeddingModelConfig

    model = TabularModel(
        data_config=DataConfig(["target"], [*"abcd"], ["word"]),
        model_config=CategoryEmbeddingModelConfig("classification", layers="16", dropout=0.1),
        optimizer_config=OptimizerConfig(),
        trainer_config=TrainerConfig(32, max_epochs=5, accelerator="cpu", progress_bar="none"),
        verbose=False,
    )
    model.fit(train=table())


@work
def deeptab() -> None:
    """A perceptron in the form of scikit-learn."""
    from deeptab.models import MLPClassifier

    frame = table()
    targets = frame.pop("target")
    MLPClassifier().fit(frame, targets, max_epochs=5, batch_size=32, **QUIET)


@work
def pytorch_forecasting() -> None:
    """A temporal fusion transformer."""
    import lightning.pytorch as pl
    import pandas as pd
    from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet

    frame = pd.DataFrame({"time": np.arange(200), "group": "a", "value": series(200)})
    lengths = {"max_encoder_length": 12, "max_prediction_length": 4}
    data = TimeSeriesDataSet(frame, "time", "value", ["group"], **lengths)
    model = TemporalFusionTransformer.from_dataset(data, hidden_size=4, dropout=0.1)
    loader = data.to_dataloader(train=True, batch_size=16, num_workers=0)
    pl.Trainer(max_epochs=4, **QUIET).fit(model, loader)


@work
def rectools() -> None:
    """SASRec on drawn sessions."""
    import pandas as pd
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    drawn = np.random.default_rng(0)
    columns = {"user_id": np.arange(640) % 40, "item_id": drawn.integers(0, 30, 640), "weight": 1}
    frame = pd.DataFrame({**columns, "datetime": pd.date_range("2020", periods=640)})
    small = {"n_blocks": 1, "n_heads": 1, "n_factors": 8, "session_max_len": 8, "batch_size": 8}
    SASRecModel(epochs=6, verbose=0, **small).fit(Dataset.construct(frame))


@work
def neuralprophet() -> None:
    """A trend, a season and lags, by the library's `fit`."""
    import pandas as pd
    from neuralprophet import NeuralProphet

    frame = pd.DataFrame({"ds": pd.date_range("2020", periods=200), "y": series(200)})
    model = NeuralProphet(epochs=4, batch_size=16, n_lags=5, learning_rate=0.01)
    model.fit(frame, freq="D", progress=None)


@work
def careamics() -> None:
    """Noise2Void, whose patches are masked at random."""
    from careamics import CAREamist
    from careamics.config import create_n2v_config

    images = series(20 * 64 * 64).reshape(20, 64, 64)
    sizes = {"patch_size": [32, 32], "batch_size": 8, "num_epochs": 3}
    config = create_n2v_config("drawn", data_type="array", axes="SYX", **sizes)
    CAREamist(config).train(train_data=images)


def classifier(net: nn.Module, loss_of: Callable[[nn.Module, Any], torch.Tensor]) -> Any:
    """Return a module of `pytorch_lightning` around a network, as these libraries' pages have it."""
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = loss_of(self.net, batch)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    return Module()


def fit_old_tree(module: Any, loader: Any) -> None:
    """Train by `pytorch_lightning`."""
    import pytorch_lightning as pl

    pl.Trainer(max_epochs=4, **QUIET).fit(module, loader)


@work
def lightly() -> None:
    """SimCLR, whose views two worker processes draw, with a memory bank."""
    from lightly.data import LightlyDataset
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform
    from torch.utils.data import DataLoader
    from torchvision.datasets import FakeData

    views = SimCLRTransform(input_size=16, gaussian_blur=0.0)
    images = LightlyDataset.from_torch_dataset(FakeData(160, (3, 16, 16)), views)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(392, 8))
    criterion = NTXentLoss(memory_bank_size=(64, 8))

    def loss_of(net: nn.Module, batch: Any) -> torch.Tensor:
        (first, second), *_ = batch
        return criterion(net(first), net(second))  # type: ignore[no-any-return]

    module = classifier(net, loss_of)
    module.criterion = criterion
    fit_old_tree(module, DataLoader(images, 16, shuffle=True, num_workers=2))


@work
def torchsurv() -> None:
    """Cox's partial likelihood."""
    from torch.utils.data import DataLoader, TensorDataset
    from torchsurv.loss.cox import neg_partial_log_likelihood

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(160, 4, generator=generator)
    times = torch.rand(160, generator=generator)
    data = TensorDataset(inputs, inputs[:, 0] > 0, times + 0.1)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))

    def loss_of(net: nn.Module, batch: Any) -> torch.Tensor:
        rows, events, until = batch
        return neg_partial_log_likelihood(net(rows), events, until)

    fit_old_tree(classifier(net, loss_of), DataLoader(data, 16, shuffle=True))


@work
def segmentation_models_pytorch() -> None:
    """A U-Net on drawn images."""
    import segmentation_models_pytorch as smp
    from torch.utils.data import DataLoader, TensorDataset

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(32, 3, 32, 32, generator=generator)
    masks = (images.mean(1, keepdim=True) > 0.5).float()
    dice = smp.losses.DiceLoss("binary")
    net = smp.Unet("resnet18", encoder_weights=None, decoder_channels=(32, 16, 16, 8, 8))

    def loss_of(net: nn.Module, batch: Any) -> torch.Tensor:
        inputs, targets = batch
        return dice(net(inputs), targets)  # type: ignore[no-any-return]

    loader = DataLoader(TensorDataset(images, masks), 4, shuffle=True)
    fit_old_tree(classifier(net, loss_of), loader)


@work
def torch_geometric() -> None:
    """Graphs in the library's data module, with a random transform of each."""
    import lightning.pytorch as pl
    from torch_geometric.data.lightning import LightningDataset
    from torch_geometric.datasets import FakeDataset
    from torch_geometric.nn import GCNConv, global_mean_pool
    from torch_geometric.transforms import RandomNodeSplit

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = GCNConv(8, 8), nn.Linear(8, 3)

        def training_step(self, graphs: Any, batch_idx: int) -> torch.Tensor:
            hidden = self.conv(graphs.x, graphs.edge_index).relu()
            kept = nn.functional.dropout(hidden * graphs.train_mask[:, None], 0.2)
            outputs = self.last(global_mean_pool(kept, graphs.batch))
            return nn.functional.cross_entropy(outputs, graphs.y)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    drawn = RandomNodeSplit(num_val=0.1, num_test=0.1)
    graphs = FakeDataset(64, 12, num_channels=8, num_classes=3, transform=drawn)
    pl.Trainer(max_epochs=4, **QUIET).fit(Net(), datamodule=LightningDataset(graphs, batch_size=8))


@work
def rl4co() -> None:
    """An attention model for tours, by the library's own Trainer.

    Its other baseline is kept nowhere: a resumed start ends in an assertion of the library.
    """
    from rl4co.envs import TSPEnv
    from rl4co.models import AttentionModel
    from rl4co.utils import RL4COTrainer

    small = {"embed_dim": 16, "num_encoder_layers": 1, "num_heads": 2}
    sizes = {"batch_size": 16, "train_data_size": 128, "val_data_size": 32, "test_data_size": 16}
    env = TSPEnv(generator_params={"num_loc": 6})
    model = AttentionModel(env, baseline="exponential", policy_kwargs=small, **sizes)
    RL4COTrainer(max_epochs=4, precision="32-true", logger=None, **QUIET).fit(model)


@work
def torch_uncertainty() -> None:
    """Packed ensembles with MixUp, by the library's own Trainer."""
    from torch.utils.data import DataLoader, TensorDataset
    from torch_uncertainty import TUTrainer
    from torch_uncertainty.routines import ClassificationRoutine

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(160, 4, generator=generator)
    data = TensorDataset(inputs, (inputs[:, 0] > 0).long())
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    mixed = {"mixtype": "mixup", "mixup_alpha": 0.5, "cutmix_alpha": 0.0}
    routine = ClassificationRoutine(
        net, 2, nn.CrossEntropyLoss(), optim_recipe=optimizer, mixup_params=mixed
    )
    loader = DataLoader(data, 16, shuffle=True)
    val = DataLoader(data, 80)
    TUTrainer(max_epochs=4, **QUIET).fit(routine, loader, val)


@work
def lightning_uq_box() -> None:
    """Variational weights, which draw in each step, on the library's toy data."""
    from lightning import Trainer
    from lightning_uq_box.datamodules import ToyHeteroscedasticDatamodule
    from lightning_uq_box.uq_methods import NLL, BNN_VI_ELBO_Regression

    net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 2))
    model = BNN_VI_ELBO_Regression(net, NLL(), burnin_epochs=2, num_mc_samples_train=2)
    data = ToyHeteroscedasticDatamodule(n_points=600, batch_size=20)
    Trainer(max_epochs=4, **QUIET).fit(model, datamodule=data)


class Work(NamedTuple):
    """What the page says of a package, beside what is measured, and how it is installed."""

    how: str
    seeds: str = "global"
    workers: int = 0
    needs: str = ""  # what is installed with it
    pins: bool = False  # whether it asks for older packages, and is installed without any


MAKES_ITS_OWN = ", which makes its Trainer"
OLD_TREE = " of `pytorch_lightning`"
OLD = "pytorch-lightning"
WORKS = {
    "darts": Work(f"`model.fit`{MAKES_ITS_OWN}{OLD_TREE}", "`random_state`", needs=OLD),
    "rectools": Work(
        f"`model.fit`{MAKES_ITS_OWN}{OLD_TREE}",
        needs=f"{OLD} fastrlock pm-implicit typeguard pydantic pandas<3",
        pins=True,
    ),
    "neuralprophet": Work(
        f"`model.fit`{MAKES_ITS_OWN}{OLD_TREE}",
        needs=f"{OLD} captum holidays plotly pandas<3",
        pins=True,
    ),
    "pytorch_tabular": Work(f"`model.fit`{MAKES_ITS_OWN}{OLD_TREE}", "its own"),
    "gluonts": Work(f"`estimator.train`{MAKES_ITS_OWN}", needs="scipy"),
    "deeptab": Work(f"`model.fit`{MAKES_ITS_OWN}"),
    "careamics": Work(
        f"`CAREamist.train`{MAKES_ITS_OWN}",
        "global, and a generator of its own",
        needs="bioimageio-core microssim scikit-image tifffile zarr pydantic psutil",
        pins=True,
    ),
    "pytorch-forecasting": Work("`Trainer.fit`"),
    "torch-geometric": Work("`Trainer.fit`"),
    "rl4co": Work("`RL4COTrainer.fit`"),
    "torch-uncertainty": Work("`TUTrainer.fit`", needs="scikit-learn huggingface_hub timm"),
    "lightning-uq-box": Work("`Trainer.fit`"),
    "lightly": Work(f"`Trainer.fit`{OLD_TREE}", "global, in workers", 2),
    "torchsurv": Work(f"`Trainer.fit`{OLD_TREE}", needs=OLD),
    "segmentation_models_pytorch": Work(f"`Trainer.fit`{OLD_TREE}", needs=OLD),
}


def train(package: str, where: str) -> None:
    """Train a work, alone or in a block of `Exact`, and print the number of optimizer steps."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    run = CASES[package.replace("-", "_")]
    num_steps = 0

    def count(*_: Any) -> None:
        nonlocal num_steps
        num_steps += 1

    register_optimizer_step_post_hook(count)
    if where == "alone":
        run()
    else:
        os.chdir(where)  # where they write files of their own
        with Exact(where, seed=0, every_n_steps=4):
            run()
    print(f"optimizer steps: {num_steps}")


class Told(Starts):
    """Starts whose lines of Leyden, and numbers of steps, are kept."""

    def __init__(self, command: list[str], folder: Path) -> None:
        super().__init__(command, folder, TIMEOUT_S, print)
        self.lines: list[str] = []
        self.num_steps: list[str] = []

    def start(self, kill_at: str = "") -> tuple[Marks, int]:
        """Return the marks and the exit code of a start, see `Starts`."""
        found = super().start(kill_at)
        text = self.output.read_text(errors="replace")
        self.lines += re.findall(r"leyden: .*", text)  # also behind a progress bar
        self.num_steps += re.findall(r"optimizer steps: (\d+)", text)
        return found


def outcome(package: str) -> tuple[str, str]:
    """Return what two kills come to, and the first line that announces or explains it."""
    command = [sys.executable, str(Path(__file__).absolute()), "--train", package]
    with tempfile.TemporaryDirectory(prefix="leyden-works-") as folder:
        alone = subprocess.run([*command, "alone"], capture_output=True, text=True, cwd=folder)
        if alone.returncode:
            return "does not train alone", alone.stderr.strip().splitlines()[-1]
        told = Told([*command, "{dir}"], Path(folder))
        try:
            is_same, text = compare_killed(told, NUM_KILLS, 0)
        except ExactError as error:
            is_same, text = False, str(error)
    announced = [line for line in told.lines if "not guaranteed" in line]
    if not told.num_steps:
        return ("refused" if told.lines else "crash"), (told.lines or [text])[-1]
    (num_alone,) = re.findall(r"optimizer steps: (\d+)", alone.stdout)
    if told.num_steps[0] != num_alone:
        return "harmed", f"{told.num_steps[0]} steps, alone {num_alone}"
    if "ends with exit code" in text:
        return "crash", text.splitlines()[-1]
    if is_same:
        return "same bits", (announced or [""])[0]
    return ("announced" if announced else "silent"), (announced or [text])[0]


def main(packages: list[str]) -> None:
    """Print a row for each work."""
    today = datetime.date.today()
    for package in packages or WORKS:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{package}: not installed")
            continue
        kind, line = outcome(package)
        said = line.removeprefix("leyden: exact resume is not guaranteed: ").replace("|", "/")
        how, seeds, workers, *_ = WORKS[package]
        cells = (f"{package} {version}", how, seeds, workers, said, kind, today)
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(*sys.argv[2:])
    else:
        main(sys.argv[1:])
