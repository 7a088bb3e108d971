"""The VQA back ends: a worker process that dies, a server that fails on purpose, saved answers, loaders by name."""

import base64
import io
import json
import os
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from bench.dpg.server import ServerVQA
from bench.dpg.vqa import WorkerVQA, load_vqa
from bench.server import ServerConfig

IMAGE = Image.new("RGB", (4, 4), (255, 0, 0))

WORKER = """
import json, os, pathlib, sys, time
deaths, way, counter = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
print("loading", file=sys.stderr)
if way == "start":
    raise SystemExit("no weights here")
print(json.dumps({"passport": {"vqa": "fake"}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    seen = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(seen + 1))
    if seen < deaths:
        if way == "exit":
            print("out of memory", file=sys.stderr)
            os._exit(1)
        if way == "hang":
            time.sleep(60)
        print("Downloading ...", flush=True)  # a library that writes among the answers
    elif way == "error":
        print(json.dumps({"error": "no such question"}), flush=True)
    else:
        print(json.dumps({"answers": [q.upper() for q in request["questions"]]}), flush=True)
"""


@pytest.fixture
def worker(tmp_path):
    """A function that starts a fake worker which dies `deaths` times in some way."""
    (tmp_path / "worker.py").write_text(WORKER)
    started = []

    def start(deaths: int, way: str = "exit", timeout_s: float = 20.0) -> WorkerVQA:
        command = [sys.executable, str(tmp_path / "worker.py"), str(deaths), way, str(tmp_path / "count")]
        started.append(WorkerVQA(command, timeout_s=timeout_s))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_a_worker_answers_in_order(worker):
    vqa = worker(0)
    assert vqa.passport == {"vqa": "fake"}
    assert vqa(IMAGE, ["b?", "a?"]) == ["B?", "A?"]
    assert vqa(IMAGE, ["c?"]) == ["C?"]


@pytest.mark.parametrize("way", ["exit", "noise"])
def test_a_dead_worker_is_started_once_and_the_image_repeated(worker, way):
    assert worker(1, way)(IMAGE, ["a?"]) == ["A?"]


def test_a_silent_worker_counts_as_dead(worker):
    assert worker(1, "hang", timeout_s=2.0)(IMAGE, ["a?"]) == ["A?"]


def test_a_worker_that_dies_twice_is_an_error_with_its_last_words(worker):
    with pytest.raises(ConnectionError, match="(?s)died twice on the same request.*out of memory"):
        worker(2)(IMAGE, ["a?"])


def test_a_worker_that_cannot_start_says_why(worker):
    with pytest.raises(ConnectionError, match="(?s)did not start.*no weights here"):
        worker(0, "start")


def test_a_workers_own_error_is_passed_on(worker):
    with pytest.raises(ConnectionError, match="no such question"):
        worker(0, "error")(IMAGE, ["a?"])


ANSWER = b'{"choices": [{"message": {"content": "yes"}}]}'
RAW = {  # replies that break off, or are no HTTP
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + ANSWER[:20],
    "status": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + ANSWER,
    "header": b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\n",
    "cut-error": b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nsecret-key",
}


class Flaky(BaseHTTPRequestHandler):
    """A chat server that fails `plan[question]` first, then answers with the image's size and the question."""

    protocol_version = "HTTP/1.1"
    plan: dict[str, list] = {}
    seen: list[dict] = []
    busy = most_busy = 0
    lock = threading.Lock()

    def do_POST(self):  # noqa: N802 (http.server's name)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        picture, text = body["messages"][0]["content"]
        question = text["text"].split("?")[0] + "?"
        with self.lock:
            type(self).busy += 1
            type(self).most_busy = max(self.busy, self.most_busy)
            self.seen.append({"question": question, "headers": dict(self.headers), "body": body, "path": self.path})
            failure = self.plan.get(question, []).pop(0) if self.plan.get(question) else None
        time.sleep(0.02)
        with self.lock:
            type(self).busy -= 1  # before the client has its answer, and asks again
        self._reply(failure, picture["image_url"]["url"])

    def _reply(self, failure, url):
        if failure in RAW:
            self.wfile.write(RAW[failure])
            self.close_connection = True
            return
        if failure == "drop":
            self.close_connection = True
            self.connection.close()
            return
        if failure == "slow":
            time.sleep(1.5)
        image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
        answer = {"choices": [{"message": {"content": f" {image.width}x{image.height} "}}]}
        broken = {
            "json": b"{",
            "empty": b'{"choices": [{"message": {"content": null}}]}',
            "list": b"[1]",
            "echo": b'{"error": "your key secret-key is new to us"}',
            400: b"bad: Bearer secret-key\x1b[31m",
        }
        content = broken.get(failure, json.dumps(answer).encode())
        self.send_response(failure if isinstance(failure, int) else 200)
        if failure == 302:
            self.send_header("Location", "/elsewhere")
        if failure == 429:
            self.send_header("Retry-After", "7")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A function from a plan of failures to a client of the failing server, and the list of its waits."""
    Flaky.plan, Flaky.seen, Flaky.busy, Flaky.most_busy = {}, [], 0, 0
    http = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{http.server_port}/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    waits = []

    def client(plan=None, **settings):
        Flaky.plan = plan or {}
        return ServerVQA("toy-model", config=ServerConfig(**settings), sleep=waits.append), waits

    yield client
    http.shutdown()
    http.server_close()


def test_a_server_is_asked_with_image_and_key(server):
    vqa, waits = server()
    assert vqa(IMAGE, ["Is it red?", "Is it blue?"]) == ["4x4", "4x4"]
    first = Flaky.seen[0]
    assert first["path"] == "/v1/chat/completions" and first["headers"]["Authorization"] == "Bearer secret-key"
    assert (first["body"]["model"], first["body"]["temperature"]) == ("toy-model", 0)
    assert waits == []
    assert "secret-key" not in json.dumps(vqa.passport)


@pytest.mark.parametrize("failure", [500, 503, 408, "drop", "json", "empty", "list", *RAW])
def test_passing_failures_are_tried_again_with_growing_waits(server, failure):
    vqa, waits = server({"Q?": [failure] * 3})
    assert vqa(IMAGE, ["Q?"]) == ["4x4"]
    assert len(waits) == 3
    assert all(2**k * 0.5 <= wait <= 2**k for k, wait in enumerate(waits))


def test_a_busy_server_is_left_the_time_it_asks_for(server):
    vqa, waits = server({"Q?": [429]})
    assert vqa(IMAGE, ["Q?"]) == ["4x4"]
    assert waits == [7.0]


def test_a_slow_reply_is_given_up_and_asked_again(server):
    vqa, waits = server({"Q?": ["slow"]}, timeout_s=0.5)
    assert vqa(IMAGE, ["Q?"]) == ["4x4"] and len(waits) == 1


def test_a_server_that_never_recovers_is_an_error(server):
    vqa, waits = server({"Q?": [500] * 9}, max_tries=3)
    with pytest.raises(ConnectionError, match="no answer in 3 tries; the last: status 500"):
        vqa(IMAGE, ["Q?"])
    assert len(waits) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_refusal_is_not_repeated_and_tells_no_key(server, status):
    vqa, waits = server({"Q?": [status]})
    with pytest.raises(ConnectionError, match=f"refuses the question, status {status}") as error:
        vqa(IMAGE, ["Q?"])
    assert waits == [] and len(Flaky.seen) == 1 and "secret-key" not in str(error.value)


def test_a_key_that_a_server_echoes_is_told_nobody(server):
    vqa, _ = server({"Q?": ["echo"] * 9}, max_tries=2)
    with pytest.raises(ConnectionError, match="your key \\*\\*\\* is new to us") as error:
        vqa(IMAGE, ["Q?"])
    assert "secret-key" not in "".join(traceback.format_exception(error.value))
    vqa, _ = server({"Q?": [400]})
    with pytest.raises(ConnectionError, match="bad: Bearer \\*\\*\\* \\[31m") as error:
        vqa(IMAGE, ["Q?"])
    assert "secret-key" not in "".join(traceback.format_exception(error.value))


def test_a_key_is_stripped_and_control_characters_are_refused_without_being_told(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " secret-key\r\n")
    vqa, _ = server()
    assert vqa(IMAGE, ["Q?"]) == ["4x4"] and Flaky.seen[0]["headers"]["Authorization"] == "Bearer secret-key"
    for key in ("secret\rkey", "secret\nkey", "secret key", "secret\x00key", "secr\u00e9t-key"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", os.environ | {"OPENAI_API_KEY": key})  # the system's own refuses some
            with pytest.raises(ValueError, match="OPENAI_API_KEY holds a space, a control character") as error:
                server()
        assert "secr" not in "".join(traceback.format_exception(error.value))


def test_user_password_and_query_of_the_address_are_used_and_never_told(server, monkeypatch):
    host = os.environ["OPENAI_BASE_URL"].removeprefix("http://").removesuffix("/v1/")
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://me:pass-word@{host}/v1/?api-key=in-the-query")
    vqa, _ = server()
    assert vqa(IMAGE, ["Q?"]) == ["4x4"]
    seen = Flaky.seen[0]
    assert seen["path"] == "/v1/chat/completions?api-key=in-the-query"
    assert seen["headers"]["Authorization"] == "Basic " + base64.b64encode(b"me:pass-word").decode()
    assert vqa.passport["server"] == f"http://{host}/v1"
    vqa, _ = server({"Q?": [404]})
    with pytest.raises(ConnectionError) as error:
        vqa(IMAGE, ["Q?"])
    told = json.dumps(vqa.passport) + "".join(traceback.format_exception(error.value))
    assert not any(secret in told for secret in ("pass-word", "in-the-query", "me:"))
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    with pytest.raises(ValueError, match="give one of them"):
        server()


def test_no_key_goes_unencrypted_to_another_host_unasked(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    for host in ("example.org", "10.0.0.7:8000", "127.0.0.1.example.org", "[fe80::1]"):
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://{host}/v1")
        with pytest.raises(ValueError, match="would cross the network unencrypted. Use https, or --insecure"):
            load_vqa("openai", model="toy")
        assert load_vqa("openai", model="toy", insecure=True).passport["server"] == f"http://{host}/v1"
    for host in ("http://localhost:8000", "http://127.0.0.1", "http://[::1]:80", "https://example.org"):
        monkeypatch.setenv("OPENAI_BASE_URL", f"{host}/v1")
        assert load_vqa("openai", model="toy").passport["server"] == f"{host}/v1"
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://example.org/v1")
    assert load_vqa("openai", model="toy").passport["server"] == "http://example.org/v1"


@pytest.mark.parametrize("address", ["http://", "https://me:pass-word@:x/", "http://a:pass-word@h:99999", "http://a b"])
def test_an_address_that_is_none_is_refused_without_its_password(monkeypatch, address):
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(ValueError, match="OPENAI_BASE_URL") as error:
        load_vqa("openai", model="toy")
    assert "pass-word" not in "".join(traceback.format_exception(error.value))


def test_no_more_questions_at_once_than_allowed(server):
    vqa, _ = server(max_concurrent=3)
    questions = [f"Question {k}?" for k in range(12)]
    assert vqa(IMAGE, questions) == ["4x4"] * 12
    assert 1 < Flaky.most_busy <= 3
    assert sorted(row["question"] for row in Flaky.seen) == sorted(questions)


def test_an_address_of_another_kind_is_refused(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "file:///etc")
    with pytest.raises(ValueError, match="must start with http"):
        load_vqa("openai", model="toy")


def marked(item_id: str, crop: int) -> Image.Image:
    image = IMAGE.copy()
    image.info.update(item_id=item_id, crop=crop)
    return image


def test_replay_gives_saved_answers(questions, tmp_path):
    file = questions(("a", 1, 0), ("a", 2, 1))
    rows = [("a", 0, 1, "yes"), ("a", 0, 2, "no"), ("a", 1, 2, "Yes."), ("a", 1, 1, "no bus")]
    table, lines = tmp_path / "answers.csv", tmp_path / "answers.jsonl"
    table.write_text("item_id,crop,proposition_id,answer\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows))
    ours = [{"prompt_id": "a", "index": 0, "answers": {"1": "yes", "2": "no"}}]
    ours += [{"prompt_id": "a", "index": 1, "answers": {"1": "no bus", "2": "Yes."}}]
    lines.write_text("".join(json.dumps(row) + "\n" for row in ours))
    asked = [question.text for question in file.items["a"]]
    for path in (table, lines):
        vqa = load_vqa("replay", model=str(path), file=file)
        assert vqa(marked("a", 0), asked) == ["yes", "no"]
        assert vqa(marked("a", 1), asked[::-1]) == ["Yes.", "no bus"]
        with pytest.raises(ValueError, match="no full set of answers for item 'a', crop 2"):
            vqa(marked("a", 2), asked)


def test_an_empty_answer_is_an_answer(questions, tmp_path):
    file = questions(("a", 1, 0), ("a", 2, 1))
    (tmp_path / "answers.csv").write_text("item_id,crop,proposition_id,answer\na,0,1,\na,0,2,yes\n")
    asked = [question.text for question in file.items["a"]]
    assert load_vqa("replay", model=str(tmp_path / "answers.csv"), file=file)(marked("a", 0), asked) == ["", "yes"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b,0,1,yes", "line 2: item 'b' is not in"),
        ("a,0,7,yes", "proposition '7' is not in"),
        ("a,0,x,yes", "proposition 'x' is not in"),
        ("a,4,1,yes", "crop must be 0 to 3, not '4'"),
        ("a,-1,1,yes", "crop must be 0 to 3, not '-1'"),
        ("a,0,1,yes\na,0,1,no", "line 3: item 'a', crop 0, proposition 1 is answered twice"),
        ("a,0,1", "line 2: the row has too few cells"),
    ],
)
def test_answers_that_fit_no_question_are_refused(questions, tmp_path, row, message):
    file = questions(("a", 1, 0))
    (tmp_path / "answers.csv").write_text(f"item_id,crop,proposition_id,answer\n{row}\n")
    with pytest.raises(ValueError, match=message):
        load_vqa("replay", model=str(tmp_path / "answers.csv"), file=file)


def test_back_ends_by_name(monkeypatch, tmp_path):
    module = tmp_path / "my_vqa.py"
    own = "def load():\n    return lambda image, questions: ['yes'] * len(questions)\n"
    module.write_text(own + "bad = 3\ndef number():\n    return 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_vqa("my_vqa:load")(IMAGE, ["Q?"]) == ["yes"]
    with pytest.raises(ValueError, match="known: mplug, transformers, openai, replay"):
        load_vqa("blip")
    for name, message in (
        ("no.such:f", "there is no module 'no' here"),
        ("my_vqa:f", "my_vqa has no function 'f'; it has load, number"),
        ("my_vqa:bad", "has no function 'bad'"),
        ("my_vqa:number", "must be a function without arguments that returns a judge"),
    ):
        with pytest.raises(ValueError, match=message):
            load_vqa(name)
    for name in ("transformers", "openai", "replay"):
        with pytest.raises(ValueError, match=f"--vqa {name} needs --vqa-model"):
            load_vqa(name)
    monkeypatch.setenv("L2P_MPLUG_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nox -s dpg-mplug"):
        load_vqa("mplug")
