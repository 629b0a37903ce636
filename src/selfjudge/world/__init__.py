"""The small world: a task whose true preference is known in closed form."""
