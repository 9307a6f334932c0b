"""Hours under load: does anything grow?"""
