# The service without the embedded PostgreSQL: it needs HEADRACE_DSN or HEADRACE_DSN_FILE. docs/production.md says more.
FROM python:3.13-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements requirements
# Without pip: nothing is to be installed where the service runs.
RUN python -m venv --without-pip /opt/headrace \
    && pip --python /opt/headrace/bin/python install --require-hashes -r requirements/service.txt
# For this stage only, which is thrown away.
RUN pip install --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY batching batching
COPY headrace headrace
COPY service service
COPY sql sql
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/headrace/bin/python install --no-deps dist/*.whl
COPY deploy/docker/health.py /opt/headrace/health.py

FROM python:3.13-slim
RUN groupadd --system --gid 10001 headrace \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin headrace
COPY --from=build /opt/headrace /opt/headrace
# PYTHONDONTWRITEBYTECODE: the root file system may be read-only; all that is written goes to /dev/shm or /tmp.
ENV PATH=/opt/headrace/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HEADRACE_HOST=0.0.0.0
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python", "/opt/headrace/health.py"]
# As many processes as HEADRACE_WORKERS says. SIGTERM finishes what was accepted; give it longer than
# HEADRACE_DRAIN_SECONDS_MAX: docker stop --time 40.
CMD ["headrace", "serve"]
