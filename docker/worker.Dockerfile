# A worker: one process, one device. Models are mounted read-only, never baked in.
#
#   CUDA  docker build -f docker/worker.Dockerfile -t xlmstream-worker:cuda .
#   CPU   docker build -f docker/worker.Dockerfile -t xlmstream-worker:cpu \
#             --build-arg TORCH_INDEX_URL="$PYTORCH_CPU_INDEX" .
#
# pip's default index carries PyTorch's CUDA build (its wheels bring the CUDA libraries, so the base image stays slim;
# run with --gpus and the NVIDIA container toolkit). TORCH_INDEX_URL names another index, such as the CPU index given on
# PyTorch's installation page: gigabytes less.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
ARG TORCH_INDEX_URL=""
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
RUN python -m venv /opt/xlmstream \
    && /opt/xlmstream/bin/pip install ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY client client
COPY server server
COPY worker worker
RUN /opt/xlmstream/bin/pip install -c constraints.txt '.[worker,zh]'

FROM python:${PYTHON_VERSION}-slim-bookworm
# On a CPU the loops that choose tokens are compiled when first used, and kept below the cache's folder.
RUN useradd --system --uid 10001 --no-create-home xlmstream \
    && install -d -o 10001 /var/cache/xlmstream
COPY --from=build /opt/xlmstream /opt/xlmstream
ENV PATH=/opt/xlmstream/bin:$PATH PYTHONUNBUFFERED=1 XDG_CACHE_HOME=/var/cache
USER 10001
VOLUME ["/models"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["xlmstream-worker", "--check-ready-file", "/tmp/xlmstream-ready"]
ENTRYPOINT ["xlmstream-worker", "--ready-file", "/tmp/xlmstream-ready"]
CMD ["--help"]
