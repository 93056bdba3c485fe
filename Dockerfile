# For a CPU:          docker build -t lumbar-grading .
# For NVIDIA's GPUs:  docker build -t lumbar-grading --build-arg TORCH=cu130 .      (and docker run --gpus all)
#
# docker run --rm --network none --user "$(id -u)" -v "$PWD/studies:/data:ro" -v "$PWD/out:/out" lumbar-grading --data /data
FROM python:3.12-slim

# cpu, or the name of a CUDA version as PyTorch's index has it (https://download.pytorch.org/whl/): PyPI has CUDA alone.
ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /opt/lumbar-grading
COPY requirements.txt requirements-decoders.txt ./
RUN pip install torch torchvision --index-url "https://download.pytorch.org/whl/${TORCH}" \
    && pip install -r requirements.txt -r requirements-decoders.txt
COPY pyproject.toml README.md LICENSE ./
COPY pipeline pipeline
RUN pip install --no-deps . && rm -rf build
COPY weights weights

# Whoever runs it may be any user, also one without a home.
ENV LUMBAR_WEIGHTS=/opt/lumbar-grading/weights/default HOME=/tmp NO_ALBUMENTATIONS_UPDATE=1
WORKDIR /out
RUN chmod 777 /out
USER 1000
ENTRYPOINT ["lumbar-grading"]
CMD ["--help"]
