# vLLM for GPUs with all of base, on vLLM's own image of the release that the connector is made for.
#   docker build -f images/engine-gpu.Dockerfile -t prfaas-engine:gpu .
FROM vllm/vllm-openai:v0.32.0
COPY . /source
RUN pip install --no-cache-dir /source && useradd --uid 10001 --create-home prfaas
USER 10001
ENTRYPOINT []
CMD ["prfaas", "--help"]
