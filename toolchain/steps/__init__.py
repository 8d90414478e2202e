"""How each stage of a build is run and cached: what it reads, what it writes, which code and versions decide it.

The work itself is done in the rooms (data, train, prune, quantize, export, graph, engines, measure); heavy packages
are imported inside the stages that run, so a build with nothing to do, and `toolchain plan`, load none.
"""
