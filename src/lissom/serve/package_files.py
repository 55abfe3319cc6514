"""The texts of a package, in which names are filled; what a package is stands in `lissom.serve.packaging`."""

from __future__ import annotations

from string import Template

SERVICE = '''"""The models in this folder, for `bentoml serve .` and `bentoml build`."""

from pathlib import Path

from lissom.serve.packaged import service_of

ModelService = service_of(Path(__file__).parent)
'''

DOCKERFILE = Template("""\
# The image of ${name}: what requirements.txt names, and the models; it runs as an ordinary user.
FROM python:${python}-slim
${compiler}RUN useradd --uid 10001 --create-home --home-dir /srv/lissom lissom
ENV BENTOML_DO_NOT_TRACK=True OTEL_SDK_DISABLED=true PYTHONUNBUFFERED=1
WORKDIR /srv/lissom
COPY requirements.txt ./
${wheels}RUN pip install --no-cache-dir --requirement requirements.txt
COPY --chown=10001 models ./models
${keys}USER 10001
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \\
    CMD ["python", "-c", "import urllib.request as r; \
r.urlopen('http://127.0.0.1:3000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["lissom"]
CMD [${command}]
""")

COMPILER = """\
# The archive drops superseded point releases, so a pinned version would stop building.
# hadolint ignore=DL3008
RUN apt-get update \\
    && apt-get install --yes --no-install-recommends g++ \\
    && rm -rf /var/lib/apt/lists/*
"""

README = Template("""\
# ${name}

Models, and what serves them, made by `lissom package`.

| model | format | precision | bytes | digest |
|---|---|---|--:|---|
${table}
On this machine, on 127.0.0.1:3000, in an environment with `pip install -r requirements.txt`:

```
bentoml serve .
curl -s localhost:3000/v2/models/${model}
```

As an image of its own. Other machines are answered only with keys, of which the server keeps hashes:

```
docker build -t ${name} .
${new_key}docker run --rm -p 127.0.0.1:3000:3000${mount} ${name}
```

As a bento:

```
bentoml build .
bentoml serve ${name}:latest
bentoml containerize ${name}:latest
```

`bentoml serve` listens on 127.0.0.1; with `--host` it takes a file of keys in the environment variable
`LISSOM_KEYS`, and so does an image that `bentoml containerize` makes. `LISSOM_THREADS` and `LISSOM_RUNTIME`
choose the threads of a call and the engine.
""")
