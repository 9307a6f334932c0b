"""A deployment on a Ray cluster: where its processes stand, and what keeps them there."""
