"""What a recipe will take before it runs: memory by part and time by phase, from the model's config alone.

``shape``: the model's sizes. ``memory``: bytes of each phase. ``hardware`` and ``time``: seconds. ``workload``: the
batches of a recipe. ``stages``: all of it for a recipe. ``advice``: the settings that would make it fit.
"""
