"""One process per machine: the arena, the engines' socket, the KV link's endpoint."""
