"""HTTP clients and their pools."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

import httpx
import pytest
import requests
from conftest import KEPT


def pooled(client: requests.Session, url: str) -> None:
    assert client.get(url, timeout=5).text == "ok"


def test_leaks_a_session_that_is_kept(pages):
    client = requests.Session()
    KEPT.append(client)
    pooled(client, pages)


def test_clean_a_session_that_is_closed(pages):
    with requests.Session() as client:
        pooled(client, pages)


@pytest.fixture
def client():
    with requests.Session() as made:
        yield made


def test_clean_a_pool_that_is_closed_in_teardown(client, pages):
    pooled(client, pages)


@pytest.fixture(scope="module")
def module_client():
    with requests.Session() as made:
        yield made


@pytest.mark.parametrize("time", [1, 2])
def test_clean_a_connection_that_the_modules_pool_keeps(module_client, session_pages, time):
    pooled(module_client, session_pages)


def test_clean_the_sessions_client(session_client, session_pages):
    pooled(session_client, session_pages)


def test_leaks_beside_the_sessions_client(session_client, session_pages, pages):
    pooled(session_client, session_pages)
    KEPT.append(requests.Session())
    pooled(KEPT[-1], pages)


def test_leaks_an_httpx_client(pages):
    client = httpx.Client()
    KEPT.append(client)
    assert client.get(pages).text == "ok"


def test_clean_an_httpx_client(pages):
    with httpx.Client() as client:
        assert client.get(pages).text == "ok"


def test_leaks_a_connection_kept_by_hand(pages):
    connection = http.client.HTTPConnection(urlsplit(pages).netloc)
    KEPT.append(connection)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"ok"
