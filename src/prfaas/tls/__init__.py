"""Certificates of a deployment: its private authority, the files, what a connection checks."""
