from quantkit.errors import CalibrationError, QuantKitError, one_line


def test_messages_show_what_would_leave_the_line():
    assert str(CalibrationError("m.json: 'a\nb\x1b[31m\u2028\ud800\u202e' é 名\u3000前")) == (
        "m.json: 'a\\nb\\x1b[31m\\u2028\\ud800\\u202e' é 名\u3000前"
    )
    assert one_line("as it is: \U0001f600 'x\\n'") == "as it is: \U0001f600 'x\\n'"


def test_a_message_may_be_written_anywhere():
    text = "".join(map(chr, range(0x11000)))
    message = str(QuantKitError(text))
    message.encode()
    assert len(message.splitlines()) == 1
    assert QuantKitError(text).args == (text,)


def test_a_long_message_keeps_what_it_is_about_and_the_fix():
    message = str(QuantKitError(f"net.onnx: the name {'a' * 70_000}: shorten it"))
    assert len(message) < 5000
    assert message.startswith("net.onnx: the name aaa")
    assert message.endswith("aaa: shorten it")
