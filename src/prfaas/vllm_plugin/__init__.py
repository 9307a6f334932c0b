"""The out-of-tree vLLM KV connector. The only package that imports vllm or torch."""
