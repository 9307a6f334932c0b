"""The OpenAI endpoint of a deployment: tokenises, routes, carries out, streams through."""
