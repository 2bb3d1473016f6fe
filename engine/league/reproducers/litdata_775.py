"""litData #775: whether the Trainer loads the state of a StreamingDataLoader that it has saved."""

import tempfile

import lightning as L
from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming import Cache

folder = tempfile.mkdtemp()
cache = Cache(folder, chunk_size=2)
for index in range(10):
    cache[index] = index
cache.done()
cache.merge()


class Net(L.LightningModule):
    def training_step(self, batch):
        print(batch.tolist(), end=" ")

    def configure_optimizers(self):
        return None


for title, steps, path in [("before", 3, None), ("\nresumed", 5, f"{folder}/step=3.ckpt")]:
    print(title, end=": ")
    trainer = L.Trainer(max_steps=steps, barebones=True)
    data = StreamingDataLoader(StreamingDataset(folder), batch_size=2, num_workers=1)
    trainer.fit(Net(), data, ckpt_path=path)
    trainer.save_checkpoint(f"{folder}/step={steps}.ckpt")
