"""The bundle: one signed file with an engine, all that its user needs, and the proof of where it comes from."""
