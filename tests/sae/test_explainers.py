"""A service with a chat interface stands in for a language model, and follows the prompts by a rule."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from kanlib.errors import BadInputError
from kanlib.networks.streams import Stream
from kanlib.sae import Explainer, in_words
from kanlib.sae.explainers import KEY
from tests.sae.test_profiles import LENGTH, TEXTS, VOCABULARY

PIECES = [" a", "b\n", '"', *(f" word{i}" for i in range(VOCABULARY - 3))]


def rule(prompt):
    """Names the token with the highest number; tells of each token whether it is that one."""
    if "JSON list" not in prompt:
        numbers = {}
        for token, number in re.findall(r'^(".*")\t(\d+)$', prompt, re.MULTILINE):
            numbers.setdefault(token, []).append(int(number))
        return max(numbers, key=lambda token: sum(numbers[token]) / len(numbers[token]))
    name = re.search(r"active on this: (.*)", prompt)[1]
    tokens = prompt.split("\n\n")[1].splitlines()
    return json.dumps([10 * (token == name) for token in tokens])


@pytest.fixture
def service():
    """An address, what is asked there, and the rule that replies, which a test may change."""

    class Service(ThreadingHTTPServer):
        asked, headers, rule, status = [], [], staticmethod(rule), 200

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.asked.append((self.path, asked))
            self.server.headers.append(dict(self.headers))
            said = self.server.rule(asked["messages"][0]["content"])
            body = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(self.server.status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            """Nothing."""

    with Service(("localhost", 0), Handler) as server:
        server.asked, server.headers = [], []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.address = f"http://localhost:{server.server_port}/v1"
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def stream():
    tokens = torch.randint(VOCABULARY, (TEXTS * LENGTH,), generator=torch.Generator().manual_seed(0))
    return Stream(torch.zeros(len(tokens), 1), tokens, torch.arange(TEXTS).repeat_interleave(LENGTH))


@pytest.mark.parametrize("token", [0, 1, 2, 5])
def test_a_feature_of_one_token_is_explained_and_simulated(service, stream, token):
    z = (stream.tokens == token).float()[:, None]
    (found,) = in_words(Explainer(service.address, "small"), z, stream, PIECES)
    assert found.words == json.dumps(PIECES[token])
    assert found.score == pytest.approx(1)
    assert found.simulated == 1
    assert {path for path, _ in service.asked} == {"/v1/chat/completions"}
    assert {asked["model"] for _, asked in service.asked} == {"small"}


def test_a_feature_of_chance_is_not(service, stream):
    z = torch.rand(len(stream), 1, generator=torch.Generator().manual_seed(1))
    (found,) = in_words(Explainer(service.address, "small"), z, stream, PIECES)
    assert abs(found.score) < 0.3


def test_words_are_made_from_half_of_the_texts_and_tried_on_the_other(service, stream):
    """A feature that changes its token between them is explained by the first, and the score says so."""
    half = stream.texts < TEXTS / 2
    z = ((stream.tokens == 4) & half | (stream.tokens == 7) & ~half).float()[:, None]
    (found,) = in_words(Explainer(service.address, "small"), z, stream, PIECES)
    assert found.words == json.dumps(PIECES[4])
    assert found.score < 0.1


@pytest.mark.parametrize("said", ["no list", "[1, 2]", '["a"]', "[1e999]", "7"])
def test_replies_that_are_no_number_a_token_are_left_out(service, stream, said):
    service.rule = lambda prompt: said if "JSON list" in prompt else "a word"
    (found,) = in_words(Explainer(service.address, "small"), (stream.tokens == 3).float()[:, None], stream, PIECES)
    assert found.simulated == 0
    assert found.score != found.score


def test_a_key_is_sent_where_there_is_one(service, monkeypatch):
    explainer = Explainer(service.address + "/", "small")
    monkeypatch.delenv(KEY, raising=False)
    service.rule = lambda prompt: f" {prompt}! "
    assert explainer.reply("hello") == "hello!"
    monkeypatch.setenv(KEY, "abc")
    explainer.reply("hello")
    assert [headers.get("Authorization") for headers in service.headers] == [None, "Bearer abc"]


def test_what_is_no_service_is_said_in_a_sentence(service):
    with pytest.raises(BadInputError, match=r"file:///etc/hosts', expected one that begins with http"):
        Explainer("file:///etc/hosts", "small")
    with pytest.raises(BadInputError, match=r"did not reply \(URLError.*set explainer to none"):
        Explainer("http://localhost:1/v1", "small").reply("hello")
    service.status, service.rule = 404, lambda prompt: "never heard"
    with pytest.raises(BadInputError, match="HTTP Error 404"):
        Explainer(service.address, "small").reply("hello")
    service.status, service.rule = 200, lambda prompt: 7
    with pytest.raises(BadInputError, match="its content is 7"):
        Explainer(service.address, "small").reply("hello")
