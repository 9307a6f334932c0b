"""The out-of-tree vLLM KV connector. The only package that imports vllm or torch.

``connector`` is what vLLM loads; ``support`` says which settings it refuses. ``scheduler_side``
decides what moves (in EngineCore), with ``states``; ``worker_side`` moves it (beside the GPU) with
``export`` and ``load``. ``geometry`` reads vLLM's KV cache configuration, ``pages`` copies between
a cache and the agent's arena.
"""
