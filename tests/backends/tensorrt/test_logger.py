import types

import pytest

from quantkit.backends.tensorrt.library import Library, load_library
from quantkit.backends.tensorrt.logger import make_logger


def make_library():
    class Logger:
        pass

    return Library(module=types.SimpleNamespace(ILogger=Logger), name="tensorrt", version=(10, 0, 0))


def severity(name):
    return types.SimpleNamespace(name=name)


def log_through_the_bindings(texts, interrupt_at):
    """Logs from C++ as TensorRT does; returns what the logger kept."""
    from tests.fake_trt import driver

    told = []

    def notify(notice):
        told.append([notice.kind, notice.text])
        if len(told) == interrupt_at:
            raise KeyboardInterrupt

    library = load_library()
    logger = make_logger(library, notify=notify)
    for number, text in texts:
        driver.log(driver.address_of(logger), number, text, major=library.version[0])
    try:
        logger.check()
        raised = None
    except BaseException as error:
        raised = type(error).__name__
    logger.check()  # it raises once
    return {"messages": logger.messages, "errors": logger.errors(), "told": told, "raised": raised}


TEXTS = [(0, "bad"), (1, "worse\n  still"), (2, "odd"), (3, "hello"), (4, "chatter")]


def test_messages_of_every_severity_come_over_the_bindings(bindings):
    kept = bindings.call(log_through_the_bindings, TEXTS, 0)
    names = ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO"]
    assert kept["messages"] == [[name, text] for name, (_, text) in zip(names, TEXTS, strict=False)]
    assert kept["errors"] == ["bad", "worse still"]
    assert kept["told"] == [
        ["warning", "TensorRT internal_error: bad"],
        ["warning", "TensorRT error: worse\n  still"],
        ["warning", "TensorRT warning: odd"],
    ]
    assert kept["raised"] is None


def test_an_interrupt_inside_a_message_is_raised_after_the_build(bindings):
    kept = bindings.call(log_through_the_bindings, TEXTS, 2)
    assert kept["raised"] == "KeyboardInterrupt"
    assert len(kept["messages"]) == 4


def test_misleading_messages_are_not_errors_and_repeated_ones_are_one():
    logger = make_logger(make_library())
    for text in ("Error Code 1: Cuda Runtime (cudaError 35)", "no kernel", "no kernel"):
        logger.log(severity("ERROR"), text)
    assert logger.errors() == ["no kernel"]


@pytest.mark.parametrize("verbose", [False, True])
def test_verbose_messages_are_kept_if_asked_for(verbose):
    told = []
    logger = make_logger(make_library(), notify=told.append, verbose=verbose)
    for name in ("VERBOSE", "INFO", "WARNING"):
        logger.log(severity(name), "x")
    assert len(logger.messages) == (3 if verbose else 2)
    assert len(told) == (3 if verbose else 1)
