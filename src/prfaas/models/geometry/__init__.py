"""Model KV geometry: S_kv(l) of any known model from its Hugging Face ``config.json``.

Theory of operation. A model is a list of layers; each layer keeps keys and values per token, a
window of them, a recurrent state, or a convolution tail (`layers`). ``model_type`` says which
(`attention`, `latent`, `hybrid`, with `layer_types` for configs that do not name each layer). A
field that the config leaves out is what its config class in transformers or vLLM defaults to
(`config_classes`), and number formats are those that vLLM's ``auto`` flags lead to (`auto_dtypes`).
Nothing is inferred from names that merely look familiar: an unknown model type, an unknown layer
type or a missing field is an error that names it, and so is a model without a KV cache (`refused`),
because a guessed S_kv would silently misplan a deployment. `models` finds the config: a file, the
local Hugging Face cache, or the built-in catalogue.
"""
