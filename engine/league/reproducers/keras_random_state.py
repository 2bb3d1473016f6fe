"""Keras' BackupAndRestore has no random state: a resumed epoch has the dropout of the first one."""

import tempfile

import keras
import numpy as np


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


def fit(title, folder, *others):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((8,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    backup = keras.callbacks.BackupAndRestore(f"{folder}/backup")
    try:
        net.fit(np.ones((8, 8)), np.ones(8), epochs=2, verbose=0, callbacks=[backup, *others])
    except KeyboardInterrupt:
        return
    print(title, net.get_weights()[0].ravel()[:3])


fit("undisturbed", tempfile.mkdtemp())
folder = tempfile.mkdtemp()
fit("", folder, Stop())
fit("resumed", folder)
