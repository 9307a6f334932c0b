"""What holds for every test."""

from hypothesis import settings

# Nothing is timed: the machine may be busy. All else as Hypothesis chooses for this environment.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")
