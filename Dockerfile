# docker build -t leyden .
# docker run --rm --gpus all --ipc=host -v "$PWD/data:/leyden/data" -v "$PWD/outputs:/leyden/outputs" leyden leyden train
# The full image has git and make, so that the build needs the registry and a package index only.
FROM python:3.12
WORKDIR /leyden
COPY . .
RUN make .venv/.train
ENV PATH=/leyden/.venv/bin:$PATH
CMD ["leyden", "train"]
