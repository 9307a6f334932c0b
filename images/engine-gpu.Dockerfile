# vLLM for GPUs with all of base, on vLLM's own image of the release that the connector is made for. What
# that image has stays as it is; what is lacking comes by its hash.
#   docker build -f images/engine-gpu.Dockerfile -t prfaas-engine:gpu .
FROM vllm/vllm-openai:v0.32.0
COPY . /source
RUN python3 /source/tools/lacking.py /source/images/base.lock > /tmp/lacking.lock \
 && pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/lacking.lock \
 && pip install --no-cache-dir --no-deps --no-build-isolation /source \
 && prfaas --help > /dev/null && useradd --uid 10001 --create-home prfaas
USER 10001
ENTRYPOINT []
CMD ["prfaas", "--help"]
