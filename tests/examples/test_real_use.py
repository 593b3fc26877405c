"""The examples of real work do what they say, for real clients of real servers."""

from __future__ import annotations

import json
import re
import uuid

import httpx
import pytest

from tests.examples.support import LIMIT, ExampleServer

# --- fastapi_jobs.py, starlette_jobs.py -------------------------------------------------------

APPS = pytest.mark.parametrize("app", ["fastapi_jobs", "starlette_jobs"])


def signed_in(server: ExampleServer, user: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {user}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=LIMIT)


@APPS
def test_a_job_is_followed_and_cancelled_by_who_started_it(server: ExampleServer, app: str) -> None:
    """S16: and by nobody else."""
    jobs = f"/as_it_is/{app}"
    with signed_in(server, "ann") as ann, signed_in(server, "bob") as bob:
        started = ann.post(f"{jobs}/reports", params={"title": "2026"})
        assert started.status_code == 202
        job = started.headers["location"]
        assert job == f"{jobs}/operations/{started.json()['id']}"

        with ann.stream("GET", f"{job}/events") as events:
            lines = events.iter_lines()
            seen = [next(line for line in lines if "page" in line)]
            for method in ("GET", "DELETE"):
                assert bob.request(method, job).status_code == 404
            assert bob.get(f"{jobs}/operations").json()["operations"] == []
            assert httpx.get(server.url + job, timeout=LIMIT).status_code == 401

            answer = ann.delete(job, params={"wait": 5})
            assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
            seen += lines
        assert "event: end" in seen
        assert ann.get(job).json()["cancel"]["reason"] == "manual"
    server.wait_for(r"operation \w+ \(report\) cancelled .*: manual")
    server.assert_quiet()


@APPS
def test_a_job_that_nobody_cancels_comes_to_its_end(server: ExampleServer, app: str) -> None:
    """S16: and is remembered."""
    with signed_in(server, "ann") as ann:
        jobs = f"/quick/{app}"
        job = ann.post(f"{jobs}/reports", params={"title": "2026"}).headers["location"]
        events = ann.get(f"{job}/events").text
        assert events.count("event: end") == 1
        record = json.loads(events.strip().rpartition("data: ")[2])
        assert record["state"] == "completed"
        assert record["progress"]["metadata"] == {"page": 200}
    server.assert_quiet()


# --- fastapi_llm.py --------------------------------------------------------------------------


def test_a_model_stops_costing_when_its_reader_leaves(server: ExampleServer) -> None:
    """W8: and what it has said is kept."""
    chat = uuid.uuid4()
    with server.client() as client:
        client.request("GET", f"/as_it_is/fastapi_llm/chat/{chat}")
        client.read_until(b"bright")
        client.hang_up("fin")
    stopped = re.search(r"after (\d+) tokens", server.wait_for("the model has stopped"))
    assert stopped is not None
    kept = server.get(f"/as_it_is/fastapi_llm/conversations/{chat}").json()
    assert kept["text"].startswith("it was a bright")
    assert kept["paid"] == int(stopped[1]) < 280
    server.assert_quiet()


def test_a_model_that_is_read_to_the_end_says_everything(server: ExampleServer) -> None:
    """W2: nothing is cut off."""
    chat = uuid.uuid4()
    answer = server.get(f"/quick/fastapi_llm/chat/{chat}")
    assert answer.text.count("data: ") == 280
    assert server.get(f"/quick/fastapi_llm/conversations/{chat}").json()["paid"] == 280
    server.assert_quiet()


# --- fastapi_database.py ---------------------------------------------------------------------


def test_a_transaction_of_a_client_that_left_is_rolled_back(server: ExampleServer) -> None:
    """W1: one that is not cancelled is committed."""
    if server.kind.endswith("trio"):
        pytest.skip("SQLAlchemy needs asyncio")
    accounts = server.get("/as_it_is/fastapi_database/accounts").json()
    with server.client() as client:
        client.request("POST", "/as_it_is/fastapi_database/transfer?euros=30", "Content-Length: 0")
        server.wait_for("the money has been taken")
        client.hang_up("fin")
    server.wait_for(r"operation \w+ \(POST .*transfer\) cancelled .*: disconnect")
    assert server.get("/as_it_is/fastapi_database/accounts").json() == accounts

    # The copy that is quick has the same bank.
    assert server.post("/quick/fastapi_database/transfer?euros=30").status_code == 200
    after = server.get("/as_it_is/fastapi_database/accounts").json()
    assert after == {"ann": accounts["ann"] - 30, "bob": accounts["bob"] + 30}
    server.assert_quiet()


# --- fastapi_upstream.py ---------------------------------------------------------------------


def test_the_request_to_another_server_is_closed(server: ExampleServer) -> None:
    """W1: that server sees its client leave."""
    with server.client() as client:
        client.request("GET", "/as_it_is/fastapi_upstream/weather")
        connection, _ = server.upstream.accept()
        with connection:
            connection.settimeout(LIMIT)
            assert connection.recv(65536).startswith(b"GET /weather ")
            client.hang_up("fin")
            assert connection.recv(65536) == b""
    server.wait_for(r"operation \w+ \(GET .*weather\) cancelled .*: disconnect")
    server.assert_quiet()


def test_the_answer_of_another_server_is_passed_on(server: ExampleServer) -> None:
    """W2: where nobody leaves."""
    with server.client() as client:
        client.request("GET", "/as_it_is/fastapi_upstream/weather")
        connection, _ = server.upstream.accept()
        with connection:
            connection.settimeout(LIMIT)
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfair")
            assert client.response() == (200, b"fair")
    server.assert_quiet()


# --- fastapi_cpu.py --------------------------------------------------------------------------


def test_a_thread_that_checks_in_stops_when_the_client_leaves(server: ExampleServer) -> None:
    """S15, W1: the server is free for others meanwhile."""
    with server.client() as client:
        client.request("GET", "/as_it_is/fastapi_cpu/primes?below=1000000000")
        server.wait_for("primes below 2000")
        answer = server.get("/as_it_is/fastapi_cpu/primes?below=100")
        assert answer.json() == {"primes": 25}
        client.hang_up("fin")
    server.wait_for(r"operation \w+ \(primes\) cancelled .*: (parent|disconnect)")
    server.assert_quiet()


# --- fastapi_upload_cleanup.py ---------------------------------------------------------------


def test_an_upload_that_is_broken_off_leaves_nothing_behind(server: ExampleServer) -> None:
    """F3: neither the file nor its part."""
    name, data = f"{uuid.uuid4()}.bin", bytes(range(256)) * 2048
    uploads = server.folder / "uploads"
    path = f"/as_it_is/fastapi_upload_cleanup/files/{name}"
    before = set(uploads.iterdir())

    with server.client() as client:
        client.request("PUT", path, f"Content-Length: {len(data)}", body=data[:-1])
        server.wait_for(r"operation \w+ \(put_file\) entered")
        client.hang_up("fin")
    # The request is cancelled. Its block may have met the end of the body before.
    server.wait_for(r"operation \w+ \((put_file|PUT [^)]+)\) cancelled .*: (parent|disconnect)")
    assert set(uploads.iterdir()) == before
    server.assert_quiet_but_for("DisconnectCancelation")

    assert httpx.put(server.url + path, content=data, timeout=LIMIT).json() == {"size": len(data)}
    assert set(uploads.iterdir()) == {*before, uploads / name}
    assert (uploads / name).read_bytes() == data


def test_an_upload_has_a_name_that_stays_in_its_folder(server: ExampleServer) -> None:
    """W2: what is no plain name is refused."""
    path = f"{server.url}/as_it_is/fastapi_upload_cleanup/files/"
    for name in ("..%5Cx", "%2e%2e", ".hidden", "a b"):
        assert httpx.put(path + name, content=b"x", timeout=LIMIT).status_code in (404, 422)
