"""Settings of training runs that take a second or two."""

from training.settings import settings_from


def tiny_training(**changes: object):
    """Settings of a run that takes a second: a small network, two crops of 16^3 an epoch."""
    return settings_from(
        {
            "network": {"fusion": "middle", "widths": [2, 2, 4]},
            "crops": {"size": [16, 16, 16]},
            "window": {"size": [16, 16, 16]},
            "optimizer": {"name": "adamw", "rate": 1e-3},
            "schedule": {"epochs": 4, "warmup_epochs": 1, "steps_per_epoch": 2},
            "batch": 1,
            "accumulate": 1,
            "precision": "float32",
            "workers": 0,
            "validate_every": 2,
            "intensity": {"ct_clip": True, "suv_top": 20.0},
        }
        | changes
    )


def tiny_slices(**changes: object):
    """Settings of a run on slices of 64 x 64 that takes a second or two."""
    return settings_from(
        {
            "network": {"fusion": "regnety_002", "widths": [8, 8, 4, 4, 4]},
            "window": {"size": [64, 64, 1]},
            "loss": {"kind": "dice_lovasz_bce"},
            "optimizer": {"name": "adamw", "rate": 1e-3, "betas": [0.5, 0.999]},
            "schedule": {"epochs": 4, "warmup_epochs": 0, "steps_per_epoch": 2},
            "batch": 4,
            "accumulate": 1,
            "precision": "float32",
            "workers": 0,
            "validate_every": 2,
            "flips": [0],
        }
        | changes
    )
