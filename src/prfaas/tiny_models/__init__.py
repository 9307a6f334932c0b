"""Models small enough for a laptop, made by the product itself: weights, tokenizer, text."""
