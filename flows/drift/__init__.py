"""Two states of the pipeline, and whether they are one: what was committed against what is made again, yesterday against today.

`state.read_state(root)` reads a state, `compare.differences(before, after, exact)` compares two, `table.table(differences)` and
`table.summary(...)` say what came of it.
"""
