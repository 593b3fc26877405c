"""The one logger of this package.

Lifecycle goes out at DEBUG and one record per cause at INFO; nothing that is expected of a
cancelation is a warning.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("cancelable")
