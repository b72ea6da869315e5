"""TensorRT 8.6 to 11 and TensorRT-RTX behind one interface. Nothing here imports them before they are needed."""
