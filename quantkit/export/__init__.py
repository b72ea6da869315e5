"""What other tools need to run or build what quantkit made: Triton, DeepStream and trtexec, each a module."""
