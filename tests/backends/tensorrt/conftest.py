import pytest

from tests.fake_trt.releases import RELEASES, Bindings, UnobtainableError


@pytest.fixture(scope="session", params=list(RELEASES))
def bindings(request):
    """NVIDIA's real bindings of one release, in a process of their own: `bindings.call(function, *arguments)`."""
    if request.param not in RELEASES:  # a test of this release alone
        pytest.skip(f"QUANTKIT_TENSORRT_VERSIONS leaves out {request.param}")
    try:
        process = Bindings(RELEASES[request.param])
    except UnobtainableError as error:
        pytest.skip(str(error))
    yield process
    process.close()


@pytest.fixture
def calibrating(bindings):
    """Those releases that have calibrators."""
    if bindings.release.major > 10:
        pytest.skip("TensorRT 11 has no calibrators")
    return bindings
