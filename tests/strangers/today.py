"""Cells that do not yet come to what they must; a cell that does is taken out."""

TODAY = {
    ("changed_sampler", "resume"): "refused",  # when it is stopped right behind an epoch; within one, the same bits
    ("changed_sampler", "fork"): "same bits",
    ("environment", "resume"): "same bits, but announced",
    ("environment", "fork"): "same bits, but announced",
    ("wrapper_by_epoch", "resume"): "same bits, but announced",  # that a signal can't save within an epoch
}
