"""What the tests of the server share: a small model behind it, and a real server in a thread."""

import threading
from contextlib import contextmanager

from prorank import Reranker
from prorank.serving.app import create_app
from prorank.serving.limits import Limits
from prorank.serving.server import Server, listen
from prorank.serving.service import Service

QUERY = "red stone"
DOCUMENTS = ["green tree water", "red stone", "blue river red", "the stone of the river"]


def tiny_service(folder, *, batch_tokens=128, calibration=None, **limits):
    """A service around a random model of two layers."""
    reranker = Reranker(folder, max_length=96, device="cpu", precision="fp32")
    reranker.settings = reranker.settings.model_copy(update={"calibration": calibration})
    return Service(reranker, "tiny", Limits(**limits), batch_tokens)


def serving(service, **options):
    """The address of a real server of a service, as long as the context is open."""
    return running(create_app(service, **options), service.limits.timeout)


@contextmanager
def running(app, timeout):
    """The address of a real server of an application, as long as the context is open."""
    listener = listen("127.0.0.1", 0)
    started = threading.Event()
    server = Server(app, timeout, started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
