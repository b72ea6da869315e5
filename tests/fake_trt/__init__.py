"""A fake libnvinfer under NVIDIA's real Python bindings: the calls are real, what TensorRT would decide is made up.

    Bindings(release).call(function)             # releases.py: in a process of its own, which holds one version
    fake = load(stubs, bindings)                 # library.py: what that process did first
    trt = fake.trt                               # the real tensorrt_bindings; `import tensorrt` finds them too
    engine = trt.Builder(logger).build_serialized_network(network, config)
    json.loads(bytes(engine))                                            # everything that was asked for

The bindings are C++ (pybind11) and want libnvinfer, which wants a GPU. `stub.c` gives them the few symbols that they
link to; `library.py` makes the C++ objects behind those, in ctypes; the order of virtual functions (`slots.json`) is
that of NVIDIA's public headers 8.6.1, 10.16 and 11.1. x86-64 Linux and CPython only.

It shows which calls exist, in which order we make them and what comes over them. It proves nothing about libnvinfer.
"""
