"""The executor: runs the chapters of a profile and builds their book.

``python -m helpers.execute run --profile laptop`` is what ``make execute``
calls. One module per concern: ``parameters`` (what a chapter accepts),
``fingerprints`` (what need not run again), ``chapters`` (running one with
papermill), ``normalise`` (equal runs give equal bytes), ``results``
(headline numbers, comparison with the published ones), ``book``.
"""
