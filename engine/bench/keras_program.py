"""The same work in Keras, by the backend that KERAS_BACKEND names: validation, TensorBoard, best checkpoint."""

import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

keras.utils.set_random_seed(0)
raw = Path(__file__).resolve().parents[2] / "data" / "MNIST" / "raw"
images = (
    np.fromfile(raw / "train-images-idx3-ubyte", np.uint8, offset=16)
    .reshape(-1, 784)
    .astype("float32")
    / 255
)
labels = np.fromfile(raw / "train-labels-idx1-ubyte", np.uint8, offset=8).astype("int32")
model = keras.Sequential(
    [
        keras.Input((784,)),
        keras.layers.Dense(512, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(optimizer="rmsprop", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
with tempfile.TemporaryDirectory() as folder:
    callbacks = [
        keras.callbacks.ModelCheckpoint(
            f"{folder}/best.keras", monitor="val_accuracy", save_best_only=True
        ),
        keras.callbacks.TensorBoard(folder, update_freq=50),
    ]
    start, cpu = time.perf_counter(), time.process_time()
    history = model.fit(
        images[:55_000],
        labels[:55_000],
        validation_data=(images[55_000:], labels[55_000:]),
        epochs=5,
        batch_size=128,
        validation_batch_size=1000,
        callbacks=callbacks,
        verbose=0,
    )
    fit_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
print(json.dumps({"fit_s": fit_s, "cpu_s": cpu_s, "val_acc": history.history["val_accuracy"][-1]}))
