# The gateway: no model files, no torch.
#
#   docker build -f docker/server.Dockerfile -t xlmstream-server .
#   docker run --rm -p 50051:50051 xlmstream-server --broker redis://redis:6379/0 --listen 0.0.0.0:50051
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY protos protos
COPY client client
COPY server server
COPY worker worker
RUN python -m venv /opt/xlmstream \
    && /opt/xlmstream/bin/pip install -c constraints.txt '.[server]'

FROM python:${PYTHON_VERSION}-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home xlmstream
COPY --from=build /opt/xlmstream /opt/xlmstream
ENV PATH=/opt/xlmstream/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
EXPOSE 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["xlmstream", "health", "--address", "127.0.0.1:50051"]
ENTRYPOINT ["xlmstream-server"]
CMD ["--help"]
