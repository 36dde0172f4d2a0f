"""What the stages of training share: context, candidate lists, trainer, checkpoints, several processes.

Start at `context`.
"""
