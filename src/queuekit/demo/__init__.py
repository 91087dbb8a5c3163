"""`queuekit demo`: real documents, a model endpoint that misbehaves as planned, and the same jobs on every engine.

documents   the texts: a folder's, or the descriptions of the packages that are installed
plan        which call for which document fails, and how: decided by the seed
endpoint    an OpenAI-compatible server on this machine that carries the plan out; no model is behind it
tasks       the task, as a user would write it
workers     a real worker process for each engine, none of which outlives the demo
watch       the records of the jobs, followed while they run
verdict     whether every job ended as planned, and the engines agree
screen      what is shown: live in a terminal, lines in a pipe
report      what is shown at the end
run         all of it, in order
"""
