"""Language models as writers: an OpenAI-compatible server on this machine and a random transformers model."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bench.server import ChatServer, ServerConfig
from reproduce.prompts.models import BudgetError, ServerModel, load_model

KEY = "sk-secret-of-the-test"


@pytest.fixture
def server(monkeypatch):
    """A server that answers what `replies` holds, one a request: (status, body)."""
    asked, replies = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, body = replies.pop(0) if len(replies) > 1 else replies[0]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{http.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield asked, replies
    http.shutdown()
    http.server_close()


def said(text, **usage):
    return json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}).encode()


def model(max_tokens=None):
    config = ServerConfig(max_tries=3, max_concurrent=1)
    return ServerModel("tiny", max_tokens, ChatServer("tiny", config=config, sleep=lambda seconds: None))


def test_busy_and_broken_replies_are_asked_again_and_tokens_are_counted(server):
    asked, replies = server
    replies += [(503, b"busy"), (200, b"{not json"), (200, said("a prompt", total_tokens=40))]
    ours = model()
    assert ours(["write"]) == ["a prompt"] and len(asked) == 3 and ours.num_tokens == 40
    assert asked[0]["messages"] == [{"role": "user", "content": "write"}] and asked[0]["model"] == "tiny"


def test_a_server_that_answers_nonsense_or_refuses_is_told_without_the_key(server):
    _, replies = server
    replies += [(200, b'{"choices": []}')]
    with pytest.raises(ConnectionError, match="3 tries") as broken:
        model()(["write"])
    replies[:] = [(401, f"bad key {KEY}".encode())]
    with pytest.raises(ConnectionError, match="401") as refused:
        model()(["write"])
    assert KEY not in f"{broken.value}{refused.value}"


def test_spent_tokens_end_the_run_with_what_to_do(server):
    _, replies = server
    replies += [(200, said("a prompt", total_tokens=60))]
    ours = model(max_tokens=100)
    ours(["one", "two"])
    with pytest.raises(BudgetError, match="120 tokens are used, --max-tokens allows 100"):
        ours(["three"])


def test_where_the_server_does_not_say_a_quarter_of_the_characters_counts(server):
    _, replies = server
    replies += [(200, said("a prompt"))]
    ours = model()
    ours(["four words to write"])
    assert ours.num_tokens == (len("four words to write") + len("a prompt")) // 4 == 6


def test_a_transformers_folder_answers_every_instruction(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "write": 3, "a": 4, "prompt": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=6, eos_token_id=1, pad_token_id=0, **sizes)).save_pretrained(tmp_path)
    replies = load_model(f"transformers:{tmp_path}", seed=1)(["write a prompt", "write"])
    assert len(replies) == 2 and all(isinstance(reply, str) for reply in replies)
    assert set(" ".join(replies).split()) <= set(words)
    assert replies == load_model(f"transformers:{tmp_path}", seed=1)(["write a prompt", "write"])


@pytest.mark.parametrize("name", ["openai:", "gpt", "transformers:/no/such/folder"])
def test_a_wrong_name_says_what_may_be_given(name):
    with pytest.raises((ValueError, FileNotFoundError), match="give"):
        load_model(name)
