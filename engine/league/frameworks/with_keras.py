"""Keras on PyTorch with BackupAndRestore, which saves at each epoch's end: python with_keras.py DIR SCENARIO."""

import sys

import keras
import task


class Recorded(keras.Sequential):
    """A network that remembers its batch."""

    def train_step(self, data):
        self.batch = data
        return super().train_step(data)


class Marks(keras.callbacks.Callback):
    """Marks of each batch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        values = [each.value for each in self.model.optimizer.variables]
        step = self.epoch * task.NUM_BATCHES + batch + 1
        task.mark(step, [each.value for each in self.model.weights], values, self.model.batch)


def main(folder, scenario):
    if scenario == "ddp":
        task.cannot("model.fit on PyTorch trains in one process")
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dropout(0.5)] if scenario == "dropout" else []
    dense = keras.layers.Dense
    net = Recorded([keras.Input((8,)), dense(128, "relu"), dense(128, "relu"), *hidden, dense(1)])
    options = {"gradient_accumulation_steps": 2} if scenario == "accumulate" else {}
    options |= {"use_ema": True, "ema_momentum": 0.9} if scenario == "ema" else {}
    net.compile(keras.optimizers.Adam(0.01, **options), "mse")
    backup = keras.callbacks.BackupAndRestore(f"{folder}/backup", double_checkpoint=True)
    callbacks = [backup, Marks()]
    if scenario == "plateau":
        callbacks.append(keras.callbacks.ReduceLROnPlateau(patience=1))
    if scenario == "early":
        callbacks.append(keras.callbacks.EarlyStopping(patience=2))
    net.fit(
        task.make_loader(scenario),
        epochs=task.num_epochs(scenario),
        steps_per_epoch=task.NUM_BATCHES if scenario == "stream" else None,
        validation_data=task.make_val_loader(scenario),
        callbacks=callbacks,
        verbose=0,
    )
    task.mark("end", [each.value for each in net.weights])


if __name__ == "__main__":
    main(*sys.argv[1:])
