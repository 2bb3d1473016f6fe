"""Keras' BackupAndRestore leaves out the state of callbacks: a resumed EarlyStopping begins to count anew."""

import tempfile

import keras
import numpy as np


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def fit(title, folder, *others):
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    net.compile(keras.optimizers.SGD(0.0), "mse")
    stops = keras.callbacks.EarlyStopping("loss", patience=3)
    backup = keras.callbacks.BackupAndRestore(f"{folder}/backup")
    net.fit(np.ones((4, 1)), np.ones(4), epochs=10, verbose=0, callbacks=[backup, stops, *others])
    print(title, "stopped after epoch", stops.stopped_epoch + 1)


fit("undisturbed:", tempfile.mkdtemp())
folder = tempfile.mkdtemp()
try:
    fit("", folder, Stop())
except KeyboardInterrupt:
    fit("resumed after epoch 2:", folder)
