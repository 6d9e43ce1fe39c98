"""``make bench``: our training loop beside those of others, measured fairly.

``versions`` says what a version is and lists them; ``ours`` and the
``*_peer`` modules drive each one's own training code by the step. ``data``
makes the batches, which are the same for all. ``speed``, ``memory``,
``quality`` and ``specimen`` measure; ``store`` keeps what is done, so that
a run goes on where it was stopped; ``table`` prints.
"""
