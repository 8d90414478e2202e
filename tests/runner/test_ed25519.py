"""Ed25519 in Python integers: RFC 8032's own vectors, and agreement with `cryptography` (OpenSSL)."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.runner.ed25519 import L, P, verified

VECTORS = {  # section 7.1: public key, message, signature
    "1": ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", b"",
          "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
    "2": ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", b"\x72",
          "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"),
    "3": ("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", b"\xaf\x82",
          "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"),
    "SHA(abc)": ("ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf", hashlib.sha512(b"abc").digest(),
                 "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704"),
}


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_of_rfc_8032_hold_and_no_other_message_does(name: str) -> None:
    public, message, signature = bytes.fromhex(VECTORS[name][0]), VECTORS[name][1], bytes.fromhex(VECTORS[name][2])
    assert verified(public, signature, message)
    assert not verified(public, signature, message + b"\0")


@settings(max_examples=25)
@given(secret=st.binary(min_size=32, max_size=32), message=st.binary(max_size=80), at=st.integers(0, 64 * 8 - 1))
def test_it_accepts_what_cryptography_signs_and_refuses_every_flipped_bit(secret: bytes, message: bytes, at: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(secret)
    public, signature = private.public_key().public_bytes_raw(), private.sign(message)
    assert verified(public, signature, message)
    flipped = bytearray(signature)
    flipped[at // 8] ^= 1 << at % 8
    assert not verified(public, bytes(flipped), message)


@settings(max_examples=25)
@given(public=st.binary(min_size=32, max_size=32), signature=st.binary(min_size=64, max_size=64))
def test_it_says_of_arbitrary_bytes_what_cryptography_says(public: bytes, signature: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, b"m")
        expected = True
    except (InvalidSignature, ValueError):
        expected = False
    assert verified(public, signature, b"m") == expected


def test_a_signature_is_not_malleable() -> None:
    public, message, signature = (bytes.fromhex(VECTORS["2"][0]), VECTORS["2"][1], bytes.fromhex(VECTORS["2"][2]))
    s = int.from_bytes(signature[32:], "little")
    assert not verified(public, signature[:32] + (s + L).to_bytes(32, "little"), message)  # the same point S B


@pytest.mark.parametrize("public", [b"", b"\0" * 31, P.to_bytes(32, "little"), (P + 1).to_bytes(32, "little"),
                                    (1 | 1 << 255).to_bytes(32, "little"), b"\2" + b"\0" * 31])
def test_what_is_no_point_in_its_shortest_form_is_no_key(public: bytes) -> None:
    assert not verified(public, b"\0" * 64, b"m")
