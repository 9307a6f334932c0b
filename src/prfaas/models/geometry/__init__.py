"""Model KV geometry: S_kv(l) of any known model from its Hugging Face ``config.json``.

Theory of operation. A model is a list of layers; each layer keeps keys and values per token, a
window of them, a recurrent state, or a convolution tail (`layers`). ``model_type`` says which
(`attention`, `hybrid`). Nothing is inferred from names that merely look familiar: an unknown model
type, an unknown layer type or a missing field is an error that names it, because a guessed S_kv
would silently misplan a deployment. `models` finds the config: a file, the local Hugging Face
cache, or the built-in catalogue.
"""
