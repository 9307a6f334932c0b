# vLLM for the CPU with all of base, and what the tests use: to try things without a GPU.
#   docker build -f images/engine-cpu.Dockerfile -t prfaas-engine:dev .
FROM python:3.11-slim AS build
COPY . /source
RUN python -m venv /opt/prfaas \
 && /opt/prfaas/bin/pip install --no-cache-dir torch==2.13.0 \
 && /opt/prfaas/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement /source/requirements.lock \
 && /opt/prfaas/bin/pip install --no-cache-dir --no-deps --no-build-isolation /source

FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends g++ libnuma1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/prfaas /opt/prfaas
RUN useradd --uid 10001 --create-home prfaas
ENV PATH=/opt/prfaas/bin:$PATH
USER 10001
ENTRYPOINT []
CMD ["prfaas", "--help"]
