"""`python -m toolchain` is `toolchain`; `accelerate launch -m toolchain build RECIPE` trains on many devices."""

from toolchain.cli import main

main()
