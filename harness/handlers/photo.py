"""PhotoStages with this package."""

from photo_stages import PhotoStages

from micro_batch_handler import MicroBatchHandler


class Photo(PhotoStages, MicroBatchHandler):
    pass
