"""Devices reached over SSH: who they are, how files get there and back, and what the runner is asked to do there."""
