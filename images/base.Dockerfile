# Agent, gateway, members: all but vLLM. From the repository's root:
#   docker build -f images/base.Dockerfile -t prfaas:dev .
FROM python:3.11-slim AS build
COPY . /source
RUN python -m venv /opt/prfaas \
 && /opt/prfaas/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement /source/images/base.lock \
 && /opt/prfaas/bin/pip install --no-cache-dir --no-deps --no-build-isolation /source

FROM python:3.11-slim
COPY --from=build /opt/prfaas /opt/prfaas
RUN useradd --uid 10001 --create-home prfaas
ENV PATH=/opt/prfaas/bin:$PATH
USER 10001
ENTRYPOINT []
CMD ["prfaas", "--help"]
