"""The hybrid cache pool: who owns which byte of an agent's arena. Pure; see `pool.pool`."""
