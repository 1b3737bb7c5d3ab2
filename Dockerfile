# The service without the embedded PostgreSQL: it needs HEADRACE_DSN.
FROM python:3.13-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/headrace
COPY requirements requirements
RUN /opt/headrace/bin/pip install --require-hashes -r requirements/service.txt
# Only hatchling is needed of these, but pip checks hashes for whole files. This stage is thrown away.
RUN pip install --require-hashes -r requirements/dev.txt
COPY pyproject.toml README.md LICENSE ./
COPY batching batching
COPY headrace headrace
COPY service service
COPY sql sql
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/headrace/bin/pip install --no-deps dist/*.whl

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin headrace
COPY --from=build /opt/headrace /opt/headrace
# PYTHONDONTWRITEBYTECODE: the root file system may be read-only.
ENV PATH=/opt/headrace/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HEADRACE_HOST=0.0.0.0
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('HEADRACE_PORT') or 8000}/livez\", timeout=2)"]
# SIGTERM finishes what was accepted; give it longer than HEADRACE_DRAIN_SECONDS_MAX: docker stop --time 30.
CMD ["headrace", "serve"]
