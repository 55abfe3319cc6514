# Two images that run lissom:
#   docker build --target cpu -t lissom .
#   docker build --target gpu -t lissom:gpu .
# Serve an artifact:
#   lissom serve --new-key NAME --keys keys/keys.txt   (once; it shows the key)
#   sudo chown -R 10001 keys                           (the user of the image)
#   docker run --rm -p 127.0.0.1:3000:3000 -v "$(realpath runs/digits/artifact):/artifact:ro" \
#     -v "$(realpath keys):/keys:ro" lissom
# The folder is mounted, not the file: a file that is replaced would stay as it was in the container.
# Neither image has a C++ compiler: the runtimes inductor and aotinductor are absent in them, as `lissom doctor`
# says. An image that needs them adds g++ with apt-get; the other runtimes need no compiler.

FROM nvidia/cuda:13.0.2-base-ubuntu24.04 AS gpu
# The archive drops superseded point releases, so a pinned version would stop building.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv \
    && useradd --uid 10001 --create-home --home-dir /srv/lissom lissom
ENV PATH=/opt/venv/bin:$PATH BENTOML_DO_NOT_TRACK=True PYTHONUNBUFFERED=1
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
# The versions stand in pyproject.toml.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[gpu]'
USER 10001
WORKDIR /srv/lissom
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:3000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["lissom"]
CMD ["serve", "/artifact", "--host", "0.0.0.0", "--port", "3000", "--keys", "/keys/keys.txt"]

FROM python:3.12-slim AS cpu
# The torch of this index comes without CUDA libraries, which weigh gigabytes.
RUN useradd --uid 10001 --create-home --home-dir /srv/lissom lissom \
    && pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu 'torch>=2.11,<2.14'
ENV BENTOML_DO_NOT_TRACK=True PYTHONUNBUFFERED=1
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
# The versions stand in pyproject.toml.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[cpu]'
USER 10001
WORKDIR /srv/lissom
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:3000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["lissom"]
CMD ["serve", "/artifact", "--host", "0.0.0.0", "--port", "3000", "--keys", "/keys/keys.txt"]
