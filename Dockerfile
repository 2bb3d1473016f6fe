# docker build -t leyden .
# docker run --rm --gpus all --ipc=host -v "$PWD/data:/work/data" -v "$PWD/outputs:/work/outputs" leyden leyden train
# The full image has git and make, so that the build needs the registry and a package index only.
FROM python:3.12
WORKDIR /work
COPY . .
RUN make .venv/.train
ENV PATH=/work/.venv/bin:$PATH
CMD ["leyden", "train"]
