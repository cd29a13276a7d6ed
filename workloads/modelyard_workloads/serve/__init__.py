"""The bundled inference server: HTTP -> protocol adapter -> data plane -> batcher -> runtime.

    http.py, app.py, server.py   HTTP: bodies, limits, errors, draining       (knows no tensors)
    v2.py, v2_codec.py           Open Inference Protocol v2 over REST         (an adapter; others stand beside it)
    openai*.py, generate.py      OpenAI's API and Triton's generate, for language models
    dataplane.py                 which model, is it ready, is the input right (knows no protocol)
    batcher.py                   requests into batches, one inference thread
    runtimes.py                  a task's model: arrays in, arrays out        (the only import of torch)
    generation/                  language models: an engine in the place of the batcher
    loading.py, golden.py        from an artifact to a model that reproduced its golden answers

One asyncio process and one inference thread: torch frees the interpreter lock while it computes.
"""
