"""Text generation: many requests share every step of the model.

    text.py, chat.py      text to tokens and back, piece by piece; chat templates          (pure)
    sequences.py          a request inside the engine, and how its tokens are chosen       (pure)
    blocks.py             which blocks of the key/value cache belong to whom               (pure)
    scheduler.py          what the next step computes                                      (pure)
    cache.py              the key/value cache, and attention over its blocks               (torch)
    sampler.py            logits to tokens, all rows at once                               (torch)
    engine.py             the step: schedule, compute, sample, tell                        (torch)
    service.py            requests of the event loop to the engine's thread and back
    runtime.py            from an artifact to an engine that reproduced its golden answers

The design follows what the field found out: iteration-level scheduling (Yu et al. 2022, Orca), a paged cache (Kwon et
al. 2023, vLLM) and chunked prefill (Agrawal et al. 2024, Sarathi-Serve).
"""
