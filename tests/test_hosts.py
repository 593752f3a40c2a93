"""Where a server may listen, and the secrets of the environment that guard it."""

import socket

import pytest

from hmba_hf.hosts import at, check_bearer, check_host, check_port, is_loopback, read_secret

VARIABLE = "HMBA_SECRET_OF_A_TEST"


def test_others_are_reached_with_a_secret_alone(monkeypatch):
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    check_host("127.0.0.1", None, VARIABLE)
    check_host("0.0.0.0", "a secret", VARIABLE)
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(ValueError, match=f"host must be of this machine alone, .* unless {VARIABLE} is set, got"):
            check_host(host, None, VARIABLE)


def test_an_empty_secret_is_none(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_secret(VARIABLE) is None
    monkeypatch.setenv(VARIABLE, " ")
    with pytest.raises(ValueError, match=f"{VARIABLE} must be a secret or be unset"):
        read_secret(VARIABLE)
    monkeypatch.setenv(VARIABLE, "a secret")
    assert read_secret(VARIABLE) == "a secret"


@pytest.mark.parametrize("secret", ["schlüssel", " padded ", "two\nlines", "key\t"])
def test_a_secret_that_no_header_can_bear_is_refused(secret):
    check_bearer(None, VARIABLE)
    check_bearer("a secret", VARIABLE)
    with pytest.raises(
        ValueError, match=f"{VARIABLE} must be of ASCII letters, signs and digits .*, got others"
    ) as error:
        check_bearer(secret, VARIABLE)
    assert secret not in str(error.value)


def test_an_address_of_ipv6_stands_in_brackets_before_its_port():
    assert at("::1", 7860) == "[::1]:7860"
    assert at("127.0.0.1", 7860) == "127.0.0.1:7860"
    assert at("localhost", 7860) == "localhost:7860"


def test_a_port_that_is_taken_or_is_none_is_refused_with_the_reason():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):
            with pytest.raises(ValueError, match=f"port must be free on {host}, got {port}: Address already in use"):
                check_port(host, port)
    check_port("127.0.0.1", port)
    for port in (0, -1, 2**16):
        with pytest.raises(ValueError, match=f"port must be from 1 to 65535, got {port}"):
            check_port("127.0.0.1", port)
