"""The purifier that does nothing: the control of every comparison."""

from jaxpurify.models import purifier


@purifier
class Identity:
    """Return the images as they are.

    Source: our choice; the row "none" of every table.
    """

    reach = 0

    def __call__(self, images, key=None):
        return images
