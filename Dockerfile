# One image for every service; the command says which one (compose.yaml has them all).
# It holds no database, no secret and no shell script, runs as nobody, and needs no writable file system.

FROM node:22-bookworm-slim AS assets
WORKDIR /build/web
COPY web/package.json web/package-lock.json web/.npmrc ./
RUN ["npm", "ci", "--no-progress", "--loglevel=error"]
COPY web/build.mjs web/tsconfig.json ./
COPY web/assets/ assets/
RUN ["node", "build.mjs"]

FROM python:3.11-slim-bookworm AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 SKIP_WEB_ASSETS=1
RUN ["python", "-m", "venv", "/opt/venv"]
COPY requirements/image.txt /build/requirements/
RUN ["/opt/venv/bin/pip", "install", "--quiet", "--requirement", "/build/requirements/image.txt"]
# Installed as a link to /app: there lie the packages of the backend too, which no wheel holds.
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY web/build_assets.py web/
COPY otel_pyinstrument/ otel_pyinstrument/
RUN ["/opt/venv/bin/pip", "install", "--quiet", "--no-deps", "--editable", "."]

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="otel-pyinstrument" org.opencontainers.image.licenses="MIT"
# In a container only the other containers and the published ports reach this address. Off loopback the receiver
# asks for INGEST_MODE and the server for ADMIN_TOKEN, so forgetting either opens nothing.
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 BIND_HOST=0.0.0.0
WORKDIR /app
COPY --from=packages /opt/venv/ /opt/venv/
COPY pyproject.toml README.md LICENSE ./
COPY otel_pyinstrument/ otel_pyinstrument/
COPY profile_store/ profile_store/
COPY collector_receiver/ collector_receiver/
COPY analysis_api/ analysis_api/
COPY web/ web/
COPY all_in_one/ all_in_one/
COPY examples/ examples/
COPY --from=assets /build/web/static/ web/static/
RUN ["python", "-m", "compileall", "-q", "/app"]
USER 10001:10001
EXPOSE 4317 4318 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "all_in_one.probe", "http://127.0.0.1:8000/ready"]
CMD ["python", "-m", "all_in_one.server"]
